"""The real thing: real servers, real swarms and the kernel's own counters, at a size that every machine holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from eventually import eventually
from wslab import cli
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.isolation import enclosed, obstacle
from wslab.lab import registry, store
from wslab.lab.experiment import run_stage
from wslab.lab.place import this_machine
from wslab.lab.run_list import list_runs
from wslab.lab.runs import Run
from wslab.machine.process import alive

ROOT = Path(cli.__file__).resolve().parents[1]
# Long enough for two samples with all connections open, whatever the second it starts in.
HOLD_SECONDS = 2.0
CONTRACT = """
    run_id outcome connections connections_open connections_failed connections_verified ramp_seconds
    connections_per_second messages_per_second roundtrip_seconds_p50 roundtrip_seconds_p99 roundtrip_seconds_p999
    server_user_bytes_per_connection swarm_user_bytes_per_connection kernel_bytes_per_connection
    total_bytes_per_connection server_shards swarm_workers generator_limited findings run_dir
"""


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    yield
    assert registry.list_processes() == []


@pytest.mark.parametrize("server", ["lean", "tcp_floor"])
def test_both_ends_and_the_kernel_count_the_same_connections(tmp_path: Path, server: str) -> None:
    # In a network namespace of its own, where that can be made, nobody else's sockets are counted.
    alone = None if obstacle(Enclosure(netns=True)) else Enclosure(netns=True)
    given = {"connections": 23, "server": server, "server_shards": 2, "hold_seconds": HOLD_SECONDS}
    run = run_stage(place=enclosed(alone) if alone else this_machine, data_dir=tmp_path, **given)
    assert (run.outcome, run.reason, run.findings) == ("held", "", [])
    figures = run.summary
    assert figures["connections_open"] == figures["connections_verified"] == 23
    assert figures["connections_failed"] == 0
    samples = store.read_samples(run.run_dir)
    held = [sample for sample in samples if sample["phase"] == "hold"][-1]
    assert held["swarm_connections_open"] == held["server_connections_open"] == 23
    assert held["server_connections_opened"] == held["swarm_connections_opened"] == 23
    # Both ends of a connection are on this machine, and each is a socket of the kernel.
    assert held["tcp_inuse"] - samples[0]["tcp_inuse"] >= 2 * 23
    last = samples[-1]
    assert last["server_messages_received"] == last["swarm_messages_received"] >= 23
    assert set(CONTRACT.split()) <= set(run.as_dict())


def command(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """Start a command of wslab whose output is read."""
    line = [sys.executable, "-m", "wslab", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


@contextmanager
def echo_server() -> Iterator[int]:
    """Run a plain echo server of the websockets library in a thread, and yield its port."""
    import asyncio

    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            started.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
            await stop.wait()

    started: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        port, loop, _ = eventually(lambda: started and started[0])
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def test_the_swarm_verifies_its_connections_with_a_server_that_is_not_ours(tmp_path: Path) -> None:
    with echo_server() as port:
        options = ("--connections", "50", "--hold-seconds", "0", "--data-dir", "mine", "--json")
        out, err = command("swarm", f"ws://localhost:{port}/any", *options, cwd=tmp_path).communicate(timeout=60)
    found = json.loads(out)
    assert (found["outcome"], found["connections_open"], found["connections_verified"]) == ("held", 50, 50), err
    run_dir = Path(found["run_dir"])
    assert run_dir.parent == tmp_path / "mine" / "runs"
    assert {"report.html", "run.json", "samples.csv"} <= {path.name for path in run_dir.iterdir()}
    assert (run_dir / "figures" / "connections.svg").is_file()


@contextmanager
def held_stage(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[], Run]]]:
    """Start a stage that holds for minutes; yield its process and a way to load its run, when samples are there."""
    options = ("--connections", "40", "--hold-seconds", "300", "--data-dir", str(tmp_path / "data"), "--json")
    with command("stage", *options, cwd=tmp_path) as process:

        def load() -> Run:
            (run,) = list_runs(tmp_path / "data")
            return run

        def holds() -> bool:
            runs = list_runs(tmp_path / "data")
            return bool(runs) and len(runs[0].samples) > 1 and runs[0].samples["phase"].iloc[-1] == "hold"

        eventually(holds, 30.0)
        yield process, load


def test_a_caller_that_is_killed_leaves_no_process_and_all_that_was_recorded(tmp_path: Path) -> None:
    with held_stage(tmp_path) as (process, load):
        entries = registry.list_processes()
        assert {entry.role for entry in entries} == {"supervisor", "server", "swarm", "recorder"}
        before = len(load().samples)
        process.kill()
        process.communicate()
        eventually(lambda: not any(alive(entry.pid, entry.start_ticks) for entry in entries), 5.0)
    run = load()
    assert run.outcome == "crashed"
    assert run.reason.startswith("the calling process died ")
    assert len(run.samples) >= before
    assert run.samples["swarm_connections_open"].max() == 40
    assert "caller_gone" in [event["event"] for event in run.events]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_is_interrupted_drains_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    with held_stage(tmp_path) as (process, load):
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    found = json.loads(out)
    assert (found["outcome"], found["connections_open"]) == ("aborted", 40)
    assert load().outcome == "aborted"
    assert [phase["name"] for phase in load().phases] == ["ramp", "hold", "drain"]


def test_papermill_executes_the_template_from_any_folder(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("JUPYTER_PATH", str(kernel_of_this_interpreter(tmp_path)))
    data = tmp_path / "data"
    papermill.execute_notebook(
        str(project_root / "notebooks" / "10-stage.ipynb"),
        "out.ipynb",
        parameters={"connections": 23, "hold_seconds": 1, "data_dir": str(data)},
        kernel_name="wslab-test",
        progress_bar=False,
        start_timeout=180,
        iopub_timeout=120,
    )
    (run,) = list_runs(data)
    assert (run.outcome, run.summary["connections_verified"]) == ("held", 23)
    outputs = [output for cell in nbformat.read("out.ipynb", 4).cells for output in cell.get("outputs", [])]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 4
    assert not [output for output in outputs if output.output_type == "error"]


def test_papermill_executes_the_notebook_of_servers_and_a_climb_says_what_it_found(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(kernel_of_this_interpreter(tmp_path)))
    papermill.execute_notebook(
        str(project_root / "notebooks" / "30-servers.ipynb"),
        str(tmp_path / "out.ipynb"),
        # No server answers in a microsecond, so the climb goes down, and is over soon.
        parameters={"servers": "tcp_floor", "connections": "40", "message_rate": "auto", "latency_bound": 1e-6}
        | {"hold_seconds": 0, "data_dir": str(tmp_path / "data")},
        kernel_name="wslab-test",
        progress_bar=False,
        start_timeout=180,
        iopub_timeout=120,
    )
    (folder,) = (tmp_path / "data" / "comparisons").iterdir()
    record = json.loads((folder / "compare.json").read_text("utf-8"))
    (entry,) = record["order"]
    (run,) = list_runs(folder)
    assert (entry["run_id"], entry["outcome"], entry["reason"]) == (run.run_id, "held", "")
    assert [phase["name"] for phase in run.phases] == ["ramp", "hold", "climb", "verify", "drain"]
    knee = run.summary["knee"]
    assert knee == entry["summary"]["knee"]
    assert (knee["messages_per_second"], knee["latency_bound"]) == (None, 1e-6)
    assert [step["messages_per_second"] for step in knee["steps"]] == [1000, 1000, 250, 250, 62.5, 62.5]
    for step in knee["steps"]:
        assert step["messages_unanswered"] == 0
        assert step["roundtrip_seconds_p50"] <= step["roundtrip_seconds_p99"] <= step["roundtrip_seconds_p999"]
        assert step["server_cpu_fraction_max"] is not None
    assert run.summary["connections_verified"] == 40
    outputs = [o for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 3
    assert {path.name for path in (folder / "figures").iterdir()} >= {"servers.svg", "knee.svg", "ends.png"}
    assert (folder / "comparison.md").read_text("utf-8").count("tcp_floor") >= 2


def kernel_of_this_interpreter(folder: Path) -> Path:
    """Register the interpreter of the tests as a kernel, whatever kernels are installed here."""
    spec = {
        "argv": [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "wslab test",
        "language": "python",
    }
    path = folder / "jupyter" / "kernels" / "wslab-test"
    path.mkdir(parents=True)
    (path / "kernel.json").write_text(json.dumps(spec), "utf-8")
    return folder / "jupyter"
