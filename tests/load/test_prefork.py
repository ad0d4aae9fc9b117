"""A master and its crew."""

from __future__ import annotations

import os
import signal

import pytest

from load.rig import DEADLINE_SECONDS, Program, gone, until

PROGRAM = """
import os, signal, sys
from wslab.load.prefork import Crew, emit
def work(index, commands):
    while command := os.read(commands, 1):
        if command == b"x":
            raise RuntimeError(f"member {index} has had enough")
        if command == b"q":
            return
        emit("told", index=index, command=command.decode(), stdin=os.read(0, 1).decode())
def on_command(command):
    crew.tell(command["cmd"].encode(), command.get("members"))
crew = Crew(work, lambda index: emit("crashed", index=index))
crew.fork(3)
emit("ready", pids=[os.getpid(), *crew.pids])
crew.watch(on_command, lambda: None)
crew.stop()
emit("over")
"""


def test_a_command_reaches_all_members_or_the_chosen_ones() -> None:
    with Program("-c", PROGRAM) as crew:
        crew.tell("a")
        for index in range(3):
            crew.wait_for("told", index=index, command="a")
        crew.tell("b", members=[1])
        crew.tell("c", members=[1])
        crew.wait_for("told", index=1, command="c")
        assert [event["index"] for event in crew.all_of("told") if event["command"] == "b"] == [1]


def test_commands_that_come_in_parts_or_together_are_taken_one_by_one() -> None:
    with Program("-c", PROGRAM) as crew:
        crew.wait_for("ready")
        stdin = crew.process.stdin
        stdin.write(b'{"cmd": "a", "memb')
        stdin.write(b'ers": [0]}\n{"cmd": "b", "members": [0]}\n{"cmd": "c", "members": [0]}\n')
        crew.wait_for("told", command="c")
        assert [event["command"] for event in crew.all_of("told")] == ["a", "b", "c"]


def test_a_member_that_raises_shows_its_traceback_and_is_reported_with_exit_code_1() -> None:
    with Program("-c", PROGRAM) as crew:
        pids = crew.wait_for("ready")["pids"]
        crew.tell("x", members=[2])
        event = crew.wait_for("process_exited")
        assert (event["pid"], event["exit_code"], event["signal"]) == (pids[3], 1, None)
        crew.wait_for("crashed", index=2)
        assert "Traceback" in crew.stderr()
        assert "RuntimeError: member 2 has had enough" in crew.stderr()
        crew.tell("a")
        crew.wait_for("told", index=0)
        crew.wait_for("told", index=1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_member_that_is_killed_is_reported_with_the_signal(number: int) -> None:
    with Program("-c", PROGRAM) as crew:
        pids = crew.wait_for("ready")["pids"]
        os.kill(pids[1], number)
        event = crew.wait_for("process_exited")
        assert (event["pid"], event["exit_code"], event["signal"]) == (pids[1], None, number)
        crew.wait_for("crashed", index=0)


def test_the_master_is_through_when_all_members_are_and_none_has_crashed() -> None:
    with Program("-c", PROGRAM) as crew:
        crew.tell("q")
        crew.wait_for("over")
        assert crew.process.wait(DEADLINE_SECONDS) == 0
        assert [event["exit_code"] for event in crew.all_of("process_exited")] == [0, 0, 0]
        assert crew.all_of("crashed") == []


def test_the_end_of_standard_input_ends_the_crew_in_order() -> None:
    with Program("-c", PROGRAM) as crew:
        pids = crew.wait_for("ready")["pids"]
        assert crew.end() == 0
        crew.wait_for("over")
        until(lambda: all(map(gone, pids)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_crew_goes_when_its_master_is_killed(number: int) -> None:
    with Program("-c", PROGRAM) as crew:
        pids = crew.wait_for("ready")["pids"]
        crew.process.send_signal(number)
        until(lambda: all(map(gone, pids)))


def test_a_member_holds_no_descriptors_of_the_others() -> None:
    # Else a member would keep the pipes of the others open, and nobody would notice the end of the master.
    with Program("-c", PROGRAM) as crew:
        pids = crew.wait_for("ready")["pids"]
        # Standard input, output and error, and its own commands.
        until(lambda: [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids[1:]] == [4, 4, 4])


def test_an_owner_that_reads_no_events_any_more_does_not_kill_the_master() -> None:
    with Program("-c", PROGRAM) as crew:
        crew.wait_for("ready")
        reader = crew.process.stdout.fileno()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, reader)
        os.close(null)
        crew.tell("a")
        assert crew.end() == 0
        assert crew.stderr() == ""
