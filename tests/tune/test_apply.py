"""Settings written for a target and put back, on request and by a stage, whatever becomes of the stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from core.hosts import host
from fake_load import commands
from wslab.core.stage import Stage, resolve
from wslab.machine import sysctls
from wslab.tune import advice as looking
from wslab.tune import apply as module
from wslab.tune.advice import Tune, tune
from wslab.tune.apply import apply, revert, run_stage, tuned

WATCHES = "fs.epoll.max_user_watches"
BEFORE = {"fs/epoll/max_user_watches": "1000", "net/core/somaxconn": "128", "kernel/random/boot_id": "boot"}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a small tree in the place of this machine's settings."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sysctls, "SYSCTLS", tmp_path / "sys")
    for name, text in BEFORE.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    for module_ in (looking, module):
        monkeypatch.setattr(module_, "read_host", lambda: limits(tmp_path / "sys"))
    return tmp_path / "sys"


def limits(root: Path) -> dict[str, Any]:
    return host(epoll_watches_max=int(kernel(root)["fs/epoll/max_user_watches"]), somaxconn=128, conntrack_count=0)


def kernel(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text().strip() for name in BEFORE}


def target(**parameters: Any) -> Tune:
    return tune(10_000, **parameters)


def test_apply_writes_what_is_needed_and_revert_puts_it_back(root: Path) -> None:
    done = apply(target())
    assert (done.status, done.text()) == (0, f"{WATCHES}: 1000 -> 22000")
    assert kernel(root) == BEFORE | {"fs/epoll/max_user_watches": "22000"}
    back = revert()
    assert (back.status, back.text()) == (0, f"{WATCHES}: 22000 -> 1000")
    assert kernel(root) == BEFORE


def test_a_second_revert_says_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    apply(target())
    revert()
    again = revert()
    assert (again.status, again.changes) == (0, ())
    assert again.text() == f"nothing to put back, according to {tmp_path}/state/wslab/journal.json"


def test_what_is_recommended_is_written_when_it_is_asked_for(root: Path) -> None:
    apply(target(), recommended=True)
    assert kernel(root)["net/core/somaxconn"] == "4096"
    revert()
    assert kernel(root) == BEFORE


def test_a_target_that_needs_nothing_writes_nothing(root: Path) -> None:
    apply(target())
    done = apply(target())
    assert (done.status, done.changes) == (0, ())
    assert done.text().endswith("nothing written")


def test_a_setting_that_cannot_be_written_is_told_and_fails(root: Path) -> None:
    (root / "fs/epoll/max_user_watches").unlink()
    (root / "fs/epoll/max_user_watches").symlink_to("/proc/sys/kernel/osrelease")
    done = apply(tune_of_host(epoll_watches_max=1000))
    assert done.status == 1
    assert done.text().startswith(f"{WATCHES}: cannot be written: ")


def test_a_limit_of_a_process_cannot_be_written_from_here(root: Path) -> None:
    found = tune_of_host(server_shards=1, fd_hard=1024)
    done = apply(found)
    assert done.status == 1
    assert "nofile: cannot be set from here; start from: sudo prlimit --pid $$ --nofile=12000:12000" in done.text()
    assert kernel(root) == BEFORE
    assert json.loads(json.dumps(done.as_dict()))["elsewhere"][0]["key"] == "nofile"


def tune_of_host(server_shards: Any = "auto", **changes: Any) -> Tune:
    """Look at another host than the tree says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looking, "read_host", lambda: host(conntrack_count=0, **changes))
        return tune(10_000, server_shards=server_shards)


def tuned_stage() -> Any:
    """Return the place of a stage that asks for its settings."""
    stage = Stage.of(connections=10_000, tune=True)
    return tuned(stage, host(), resolve(stage, host()))


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, RuntimeError])
def test_a_stage_has_its_settings_while_it_runs(root: Path, ending: type[BaseException] | None) -> None:
    ended = pytest.raises(ending) if ending else nullcontext()
    with ended, tuned_stage() as place:
        assert [change["key"] for change in place.notes["tuning"]] == [WATCHES]
        assert kernel(root) == BEFORE | {"fs/epoll/max_user_watches": "22000"}
        if ending is not None:
            raise ending
    assert kernel(root) == BEFORE


def test_a_stage_that_may_not_write_goes_on_and_says_so(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "fs/epoll/max_user_watches").rename(root / "gone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_host", lambda: host(epoll_watches_max=1000, conntrack_count=0))
        with tuned_stage() as place:
            assert not place.notes["tuning"][0]["done"]
    assert f"{WATCHES}: there is no such setting here" in caplog.text


def test_what_a_killed_stage_left_behind_is_put_back_by_the_next(root: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from wslab.machine import journal, sysctls;"
        "sysctls.SYSCTLS = Path(sys.argv[1]);"
        f"journal.Journal('tuning', 'stage').write({{'{WATCHES}': '5000'}}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(root)], env=os.environ, cwd=Path.cwd(), timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert kernel(root)["fs/epoll/max_user_watches"] == "5000"
    with tuned_stage() as place:
        assert [(change["before"], change["after"]) for change in place.notes["tuning"]] == [("1000", "22000")]
    assert kernel(root) == BEFORE


def test_a_run_is_tuned_while_it_lasts_and_says_so(root: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    run = run_stage(
        on_event=lambda event: seen.append(kernel(root)["fs/epoll/max_user_watches"]),
        commands=commands(),
        data_dir=str(tmp_path / "data"),
        connections=600,
        hold_seconds=0,
        memory_reserve=0,
        server_shards=2,
        tune="true",
    )
    assert run.outcome == "held"
    assert set(seen) == {"1400"}
    assert run.manifest["tuning"] == [
        {"key": WATCHES, "before": "1000", "after": "1400", "done": True, "note": ""},
    ]
    assert run.manifest["stage"]["asked"]["tune"] is True
    assert kernel(root) == BEFORE
