"""Where the machine code of the loops is kept, whom it is taken from, and what happens when it cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from wslab.load.engine import cache
from wslab.load.engine.machine_code import MachineCode, _address_of
from wslab.load.precedent import Precedent

LOOP = "server_loop"


@pytest.fixture(scope="module")
def code() -> MachineCode:
    cache.load(LOOP)  # It may have to be compiled.
    found = cache.kept(LOOP)
    assert found is not None
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: MachineCode) -> Path:
    """Return a cache of the test's own, in which nothing is kept; to compile gives the code at hand."""
    monkeypatch.setattr(cache, "folders", lambda: (str(tmp_path / "engine" / cache.fingerprint()),))
    monkeypatch.setattr(cache, "compiled", lambda loop: compiled.append(loop) or code)
    compiled.clear()
    return tmp_path / "engine"


compiled: list[str] = []


def kept_file(home: Path) -> Path:
    (path,) = [path for path in home.rglob(f"{LOOP}-*") if path.suffix != ".lock"]
    return path


def test_the_fingerprint_follows_everything_that_is_compiled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {os.path.basename(path) for path in cache.COMPILED_IN}
    assert names >= {"server_loop.py", "swarm_loop.py", "wire.py", "wire_format.py", "libc.py", "state.py"}
    assert names >= {"server_words.py", "swarm_words.py", "compiling.py", "machine_code.py"}
    assert names >= {"histogram.py", "pacer.py", "scoreboard.py"}
    source = tmp_path / "source.py"
    monkeypatch.setattr(cache, "COMPILED_IN", [str(source)])
    source.write_text("a = 1")
    first = cache.fingerprint()
    source.write_text("a = 2")
    assert cache.fingerprint() != first


def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all, mine = tmp_path / "open", tmp_path / "mine"
    for folder in (open_to_all, mine):
        folder.mkdir()
    open_to_all.chmod(0o777)
    mine.chmod(0o755)
    monkeypatch.setattr(cache, "folders", lambda: (str(open_to_all), str(mine)))
    assert cache.place() == str(mine)
    mine.chmod(0o775)
    assert cache.place() is None


def test_without_a_folder_of_its_own_there_is_none_and_it_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("")  # a file where the folder should be
    said: list[str] = []
    assert cache.place() is None
    cache.load(LOOP, said.append)
    assert len(said) == 1
    assert str(home) in said[0]
    assert compiled == [LOOP]


def test_code_is_compiled_once_and_then_loaded_without_a_word(home: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        assert hasattr(cache.load(LOOP, said.append), "lean_loop")
    assert (len(said), compiled) == (1, [LOOP])


@pytest.mark.parametrize("spoil", [lambda data: data[:-100], lambda data: data[:90] + b"x" + data[91:], lambda _: b""])
def test_code_that_is_damaged_is_compiled_again(home: Path, spoil: object) -> None:
    cache.load(LOOP, print)
    path = kept_file(home)
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    assert cache.kept(LOOP) is None
    cache.load(LOOP, print)
    assert compiled == [LOOP, LOOP]
    assert cache.kept(LOOP) is not None


def test_code_for_another_cpu_is_never_run_even_under_the_right_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.load(LOOP, print)
    data = kept_file(home).read_bytes()
    monkeypatch.setattr(cache, "cpu_features", lambda: "flags: fpu")
    assert cache.kept(LOOP) is None
    (home / cache.fingerprint() / cache._file_name(LOOP)).write_bytes(data)
    assert cache.kept(LOOP) is None
    cache.load(LOOP, print)
    assert compiled == [LOOP, LOOP]


def test_what_was_kept_for_earlier_sources_is_removed_and_nothing_else(home: Path) -> None:
    for name in ("0123456789abcdef", "somebody else's", "0123"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text("")
    cache.load(LOOP, print)
    assert sorted(path.name for path in home.iterdir()) == sorted(["0123", "somebody else's", cache.fingerprint()])


def test_of_two_that_come_at_once_one_compiles(home: Path) -> None:
    reader, writer = os.pipe()
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            cache.load(LOOP, lambda line: os.write(writer, b"."))
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    os.close(writer)
    assert os.read(reader, 100) == b"."
    os.close(reader)


def test_without_numba_one_line_says_so() -> None:
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "from wslab.load.engine import cache\n"
        "cache.folders = lambda: ('/proc/nowhere',)\n"
        "try:\n cache.load('server_loop', lambda line: None)\nexcept ImportError as problem:\n print(problem)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("\n") == 1
    assert "numba" in done.stdout
    assert done.stderr == ""


def test_arrays_are_handed_over_by_address_and_must_be_writable(code: MachineCode) -> None:
    key_of = cache.load("swarm_loop").key_of
    out = array("B", bytes(24))
    key_of(1, 2, out)
    assert bytes(out).endswith(b"==")
    with pytest.raises(ValueError, match="writable"):
        key_of(1, 2, bytes(24))


def test_only_the_c_library_is_called(code: MachineCode) -> None:
    assert code.missing() == []
    assert "accept4" in code.relocations
    assert _address_of("no_such_function_anywhere") is None


def test_a_precedent_counts_when_it_is_whole() -> None:
    precedent = Precedent(100)
    assert precedent.known() is None
    precedent.publish(b"x" * 101, 3)
    assert precedent.known() is None
    for data in (b"first", b"second"):
        precedent.publish(data, 3)
        assert precedent.known() == (data, 3)
    precedent._memory[24] ^= 1
    assert precedent.known() is None
