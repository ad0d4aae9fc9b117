"""A cluster with TLS is reached with what Dask itself is configured with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hosts.cluster import dask, needs_distributed
from wslab.core.quantities import BadInput
from wslab.hosts.cluster import Cluster

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates need the program openssl")
STAGE = ("stage", "--connections", "20", "--hold-seconds", "0", "--server-on", "h0", "--swarm-on", "h0", "--json")


def configured(folder: Path) -> dict[str, str]:
    """Make a certificate that vouches for itself; return the environment in which Dask takes it for all ends."""
    certificate, key, config = folder / "certificate.pem", folder / "key.pem", folder / "dask"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         *("-days", "2", "-subj", "/CN=wslab", "-keyout", str(key), "-out", str(certificate))],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    ends = {end: {"cert": str(certificate), "key": str(key)} for end in ("scheduler", "worker", "client")}
    config.mkdir()
    tls = {"ca-file": str(certificate), **ends}
    (config / "tls.yaml").write_text(json.dumps({"distributed": {"comm": {"tls": tls}}}), "utf-8")
    return {"DASK_CONFIG": str(config)}


def wslab(folder: Path, cluster: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"XDG_STATE_HOME": str(folder / "state"), "WSLAB_DATA_DIR": str(folder / "data"), **environment}
    command = [sys.executable, "-m", "wslab", *STAGE, "--cluster", cluster]
    return subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=120)


@needs_distributed
@needs_openssl
def test_the_command_takes_the_certificates_that_dask_is_configured_with(tmp_path: Path) -> None:
    tls = configured(tmp_path)
    with dask(tmp_path, ["127.0.0.1"], tls=tls) as cluster:
        assert cluster.address.startswith("tls://")
        done = wslab(tmp_path, cluster.address, **tls)
        assert (done.returncode, json.loads(done.stdout or "{}").get("outcome")) == (0, "held"), done.stderr
        assert json.loads(done.stdout)["connections_verified"] == 20


@needs_distributed
@needs_openssl
@pytest.mark.parametrize(
    ("certificate", "says"),
    [
        (None, "it needs certificates, and Dask is configured with none: distributed.comm.tls"),
        ("nowhere.pem", "its certificates cannot be used: [Errno 2] No such file or directory"),
        ("certificate.pem", "no scheduler answers there, or none that takes these certificates"),
    ],
)
def test_certificates_that_are_missing_or_of_no_use_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: str | None, says: str
) -> None:
    import dask.config
    import distributed  # noqa: F401  its import fills in the defaults, which have to be there before some are changed

    configured(tmp_path)
    monkeypatch.setattr("wslab.hosts.cluster.CONNECT_SECONDS", 0.2)
    taken = None if certificate is None else str(tmp_path / certificate)
    given = {"ca-file": taken, "client.cert": taken, "client.key": taken and str(tmp_path / "key.pem")}
    with (
        dask.config.set({f"distributed.comm.tls.{name}": value for name, value in given.items()}),
        pytest.raises(BadInput) as refused,
    ):
        Cluster("tls://127.0.0.1:9")
    assert str(refused.value) == f"cluster=tls://127.0.0.1:9: {says}"
