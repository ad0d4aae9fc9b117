"""The state folder: where it is, what is made how, and that nothing planted by somebody else is used."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wslab.lab import registry
from wslab.machine import state as module
from wslab.machine import sysctls
from wslab.machine.journal import ENCLOSURE, Journal, undo_orphaned
from wslab.machine.process import start_ticks
from wslab.machine.state import StateFolder, Untrusted, state_folder
from wslab.tune.apply import revert

STRANGER = 12345

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="what root may trust can be tried by root only")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that stands for XDG_STATE_HOME; the one that root has otherwise is apart, too."""
    monkeypatch.setattr(module, "ROOT_STATE", str(tmp_path / "root"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_and_files_are_made_for_this_user_alone(home: Path) -> None:
    with StateFolder("processes", create=True) as folder, folder.locked("a.lock"):
        folder.replace("a.json", "text")
        assert folder.read("a.json") == "text"
        assert folder.names(".json") == ["a.json"]
    assert [mode(home / name) for name in ("wslab", "wslab/processes")] == [0o700, 0o700]
    assert [mode(home / "wslab/processes" / name) for name in ("a.json", "a.lock")] == [0o600, 0o600]


def test_what_is_not_there_is_not_made_by_looking(home: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StateFolder()
    assert not home.exists()


def test_a_folder_that_others_may_read_is_closed_to_them(home: Path) -> None:
    (home / "wslab").mkdir(parents=True, mode=0o755)
    StateFolder().__exit__(None, None, None)
    assert mode(home / "wslab") == 0o700


@pytest.mark.parametrize("name", ["wslab", "wslab/a.json", "wslab/processes"])
def test_what_others_may_write_is_not_trusted(home: Path, name: str) -> None:
    with StateFolder("processes", create=True):
        (home / "wslab/a.json").write_text("text")
    (home / name).chmod(0o777)
    with pytest.raises(Untrusted, match="others may write it"), StateFolder("processes"), StateFolder() as folder:
        folder.read("a.json")


@pytest.mark.parametrize("link", ["wslab", "wslab/processes", "wslab/processes/a.json"])
def test_no_link_is_followed(home: Path, tmp_path: Path, link: str) -> None:
    (tmp_path / "elsewhere/processes").mkdir(parents=True)
    (tmp_path / "elsewhere/a.json").write_text("text")
    (home / link).parent.mkdir(parents=True)
    (home / link).symlink_to(tmp_path / ("elsewhere/a.json" if link.endswith("json") else "elsewhere"))
    with pytest.raises(Untrusted, match="link"), StateFolder("processes") as folder:
        folder.read("a.json")


def test_a_lock_that_is_a_link_keeps_what_it_points_to(home: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (home / "wslab").mkdir(parents=True)
    for lock in ("tuning.lock", "journal.lock"):
        (home / "wslab" / lock).symlink_to(victim)
    (change,) = Journal().write({sysctls.FILE_MAX: "1"})
    assert not change.done
    assert "journal.lock is not trusted: it is a link" in change.note
    assert victim.read_text() == "precious"


def test_a_lock_is_not_truncated(home: Path) -> None:
    with StateFolder(create=True) as folder:
        folder.replace("a.lock", "text")
        with folder.locked("a.lock"):
            pass
        assert folder.read("a.lock") == "text"


def test_a_pipe_in_the_place_of_a_file_makes_nobody_wait(home: Path) -> None:
    with StateFolder(create=True) as folder:
        os.mkfifo(home / "wslab/a.json", 0o600)
        with pytest.raises(Untrusted, match="it is no file"):
            folder.read("a.json")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/wslab"),
        ({"HOME": "/h"}, "/h/.local/state/wslab"),
        ({"XDG_STATE_HOME": "~/x", "HOME": "/h"}, "/h/.local/state/wslab"),
        ({"XDG_STATE_HOME": "", "HOME": ""}, "/p/.local/state/wslab"),
        ({"HOME": "~"}, "/p/.local/state/wslab"),
        ({}, "/p/.local/state/wslab"),
    ],
)
def test_the_folder_of_a_user_is_never_a_relative_one(
    environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(module.pwd, "getpwuid", lambda uid: type("Entry", (), {"pw_dir": "/p"}))
    for name in ("XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == Path(folder)


def test_a_user_without_any_home_is_told_what_to_set_and_no_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def getpwuid(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(module.pwd, "getpwuid", getpwuid)
    for name in ("XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="set XDG_STATE_HOME"):
        state_folder()
    registry.register("server", os.getpid()).remove()
    assert "set XDG_STATE_HOME" in caplog.text
    assert (registry.list_processes(), undo_orphaned(), os.listdir()) == ([], [], [])


def test_without_a_home_no_folder_is_made_where_the_command_was_typed(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_STATE_HOME")}
    # What would write state, stopped before it is written.
    code = (
        "import os, sys; from wslab.machine import state; state.ROOT_STATE = sys.argv[1];"
        "print(state.state_folder());"
        "state.StateFolder('processes', create=True) if os.geteuid() == 0 else None"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "root")]
    here = tmp_path / "here"
    here.mkdir()
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=here, env=environment | path, capture_output=True, text=True, check=True)
    assert os.path.isabs(done.stdout.strip())
    assert list(here.iterdir()) == []


# What root trusts


@as_root
def test_root_uses_its_own_folder_where_it_is_roots_alone_and_never_the_one_of_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state_folder() == home / "wslab"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / "root/wslab"


def belongs_to_another(home: Path) -> None:
    os.chown(home, STRANGER, STRANGER)


def below_one_of_another(home: Path) -> None:
    os.chown(home.parent, STRANGER, STRANGER)


def others_write(home: Path) -> None:
    home.chmod(0o777)


def is_a_link(home: Path) -> None:
    home.rename(home.with_name("real"))
    home.symlink_to(home.with_name("real"))


def goes_upwards(home: Path) -> None:
    os.environ["XDG_STATE_HOME"] = f"{home}/../home"


REACHABLE = [belongs_to_another, below_one_of_another, others_write, is_a_link, goes_upwards]


@as_root
@pytest.mark.parametrize("spoil", REACHABLE)
def test_root_keeps_its_state_elsewhere_where_another_user_can_get_at_it(
    spoil: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "above/home"
    home.mkdir(parents=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    spoil(home)
    assert state_folder() == tmp_path / "root/wslab"
    assert state_folder() == tmp_path / "root/wslab"
    assert caplog.text.count("XDG_STATE_HOME is not used") == 1


@as_root
def test_a_sticky_folder_such_as_tmp_may_be_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "tmp/mine"))
    assert state_folder() == tmp_path / "tmp/mine/wslab"


@as_root
@pytest.mark.parametrize("name", ["wslab", "wslab/journal.json"])
def test_root_trusts_nothing_of_another_user_in_its_own_folder(home: Path, name: str) -> None:
    with StateFolder(create=True) as folder:
        folder.replace("journal.json", "{}")
    os.chown(home / name, STRANGER, STRANGER)
    with (
        pytest.raises(Untrusted, match=f"{name} is not trusted: it belongs to user {STRANGER}"),
        StateFolder() as folder,
    ):
        folder.read("journal.json")


# What another user has planted, as the folder of `sudo -E` or in the one of root


@pytest.fixture
def planted(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]) -> Path:
    """Return a folder of settings, with a state folder that would have them and more changed, and a process ended."""
    monkeypatch.setattr(sysctls, "SYSCTLS", tmp_path / "sys")
    for name, text in (("fs/nr_open", "100"), ("kernel/core_pattern", "100"), ("kernel/random/boot_id", "boot")):
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(text)
    (tmp_path / "secret").write_text("100")
    (tmp_path / "empty").mkdir()
    dead = {"pid": 2**22 + 1, "start_ticks": 1}
    names = ["fs.nr_open", "kernel.core_pattern", str(tmp_path / "secret")]
    value = {"before": "666", "after": "100", "boot_id": "boot", "time": 1.0, "session": "s"} | dead
    folder = {"kind": "cgroup", "path": str(tmp_path / "empty")}
    files = {
        # What versions before the one journal have read.
        "tuning.json": {"entries": [{"key": name} | value for name in names]},
        "isolation/x.json": {
            "owner": dead,
            "steps": [folder, *({"kind": "sysctl", "name": name, "before": "666", "written": "100"} for name in names)],
        },
        "journal.json": {
            "steps": [
                {"kind": "sysctl", "name": name, "purpose": purpose} | value
                for purpose in (ENCLOSURE, "tuning")
                for name in names
            ]
        },
        "processes/v.json": {
            "run_dir": "",
            "caller": dead,
            "processes": [{"pid": sleeper.pid, "start_ticks": start_ticks(sleeper.pid), "role": "server"}],
        },
    }
    for name, record in files.items():
        (home / "wslab" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "wslab" / name).write_text(json.dumps(record))
    for path in (home, *home.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    return tmp_path / "sys"


@as_root
@pytest.mark.parametrize(
    "act",
    [revert, lambda: revert(abandoned=True), undo_orphaned, registry.clean],
    ids=["revert", "stage", "end", "clean"],
)
def test_what_another_user_has_planted_changes_nothing_and_ends_nobody(
    act: Callable[[], object], planted: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    act()
    assert [(planted / name).read_text() for name in ("fs/nr_open", "kernel/core_pattern")] == ["100", "100"]
    assert (planted.parent / "secret").read_text() == "100"
    assert (planted.parent / "empty").is_dir()
    assert sleeper.poll() is None


@as_root
def test_the_end_of_a_supervisor_undoes_nothing_that_another_user_has_planted(planted: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from wslab.load import supervisor; from wslab.machine import state, sysctls;"
        "sysctls.SYSCTLS, state.ROOT_STATE = Path(sys.argv[1]), sys.argv[2];"
        "sys.exit(supervisor.Supervisor(0, 1).run())"
    )
    command = [sys.executable, "-c", code, str(planted), str(planted.parent / "root")]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
    assert '"stopped"' in done.stdout
    assert [(planted / name).read_text() for name in ("fs/nr_open", "kernel/core_pattern")] == ["100", "100"]
    assert (planted.parent / "empty").is_dir()


@as_root
def test_what_somebody_got_into_the_folder_of_root_is_left_alone_too(
    home: Path, planted: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    os.chown(home, 0, 0)
    os.chown(home / "wslab", 0, 0)
    assert any("not trusted" in line for line in undo_orphaned())
    assert registry.clean() == []
    assert [(planted / name).read_text() for name in ("fs/nr_open", "kernel/core_pattern")] == ["100", "100"]
    assert sleeper.poll() is None
