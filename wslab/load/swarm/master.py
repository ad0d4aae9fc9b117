"""The swarm: a master that forks the workers and takes the phases to them.

1. The workers' shares of the connections, rates and pending dials are cut here; a worker knows nothing of the others.
2. At full speed only LANES workers dial or verify at a time; the others hold what they have, which costs nothing. On 2
   cores more lanes showed no clear order in rate (11 opened 15 % faster than 4 at 200k, 16 and 21 no faster at 300k),
   while with 4 the 99th percentile of the handshake was a third or less.
3. With a ramp rate, a worker's first connection is due when those before it in its lane are through, so that the
   schedule of the whole is one straight line whoever dials.
"""

from __future__ import annotations

import _socket
import os
import sys

from wslab.core.pacer import split
from wslab.core.target import parse_url
from wslab.load.prefork import Crew, emit, read_spec, settle
from wslab.load.scoreboard import MESSAGE_RATE, PHASE_DONE, PHASES, ROLE_SWARM, TALK_NS, Scoreboard, vacate
from wslab.load.swarm.broadcasts import Broadcasts
from wslab.load.swarm.dialects import dialect_of
from wslab.load.swarm.task import ECHO, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wslab.load.swarm.worker import Worker

# Commands of a worker, one byte each; a digit means: verify in so many passes.
RAMP, HALT, HOLD, QUIET, SEND, DRAIN = b"R", b"H", b"T", b"Q", b"B", b"D"
IP_BIND_ADDRESS_NO_PORT = 24
NS = 1_000_000_000
LANES = 4
TICK_SECONDS = 0.01
WINDOW = 256
RAMP_DONE, VERIFY_DONE = PHASES.index("ramp"), PHASES.index("verify")


class Master:
    """Takes commands to the workers and says when a phase is over.

    Args:
        spec: the swarm's SPEC; see `tasks_of` for the part that is about the load.
        board: where the workers count.
    """

    def __init__(self, spec: dict[str, Any], board: Scoreboard) -> None:
        self.spec, self.board = spec, board
        self.first_row = spec.get("board_row", 0)
        self.tasks = tasks_of(spec)
        self.workers: list[Worker] = []
        self.crew = Crew(self.work, lambda index: vacate(self.row(index)))
        rows = [self.row(index) for index in range(len(self.tasks))]
        self.broadcasts = Broadcasts(rows, lambda index: self.crew.tell(SEND, [index]))
        self.phase = ""
        self.order = b""
        self.queue: list[int] = []
        self.active: list[int] = []
        self.done = 0

    def make_workers(self) -> None:
        """Make the workers, before the fork, so that all processes share them."""
        from wslab.load.precedent import Precedent
        from wslab.load.swarm.worker import ANSWER_BYTES, Worker

        dialect, plain = dialect_of(self.spec["url"], self.spec), self.spec.get("plain", True)
        precedent = Precedent(ANSWER_BYTES)
        self.workers = [
            Worker(task, index, self.row(index), dialect, precedent, plain=plain)
            for index, task in enumerate(self.tasks)
        ]

    def work(self, index: int, commands: int) -> None:
        """Be worker `index`."""
        self.workers[index].begin(commands)
        self.workers[index].run()

    def row(self, index: int) -> memoryview[int]:
        """Return worker `index`'s row of the board."""
        return self.board.row(self.first_row + index)

    def on_command(self, command: dict[str, Any]) -> None:
        """Begin what the owner asks for."""
        name = command["cmd"]
        self.broadcasts.end()
        if name == "ramp":
            self.begin("ramp", RAMP, RAMP_DONE, lanes=LANES if self.spec.get("ramp_rate") is None else len(self.tasks))
        elif name == "halt" and self.phase == "ramp":
            self.queue.clear()
            self.crew.tell(HALT)
        elif name == "hold":
            self.crew.tell(HOLD)
            if self.spec.get("broadcast"):
                self.broadcasts.begin()
        elif name == "step":
            self.step(command["messages_per_second"], command["seconds"])
        elif name == "quiet":
            self.crew.tell(QUIET)
        elif name == "verify":
            self.begin("verify", str(command.get("passes", 1)).encode(), VERIFY_DONE, lanes=LANES)
        elif name == "drain":
            self.phase = "drain"
            self.crew.tell(DRAIN)

    def step(self, rate: float, seconds: float) -> None:
        """Have all workers send `rate` messages/s per connection for so many seconds."""
        for index in range(len(self.tasks)):
            row = self.row(index)
            row[PHASE_DONE], row[MESSAGE_RATE], row[TALK_NS] = 0, round(rate * NS), round(seconds * NS)
        self.crew.tell(HOLD)

    def begin(self, phase: str, order: bytes, done: int, *, lanes: int) -> None:
        """Give `order` to the workers, so many at a time; each says on the board when it has done it."""
        self.phase, self.order, self.done = phase, order, done
        self.queue, self.active = list(range(len(self.tasks))), []
        self.lanes = lanes
        for index in self.queue:
            self.row(index)[PHASE_DONE] = 0  # What an earlier phase of the same kind has left there.
        if phase == "verify":
            self.crew.tell(QUIET)  # Messages of the hold phase end everywhere, also where verifying begins later.

    def on_tick(self) -> float | None:
        """Let the next workers begin as others get done; return the seconds until the next look."""
        if self.phase not in ("ramp", "verify"):
            return self.broadcasts.tick()
        self.active = [index for index in self.active if not self.is_done(index)]
        free = self.lanes - len(self.active)
        if free > 0 and self.queue:
            chosen, self.queue = self.queue[:free], self.queue[free:]
            self.crew.tell(self.order, chosen)
            self.active += chosen
        if not self.active and not self.queue:
            emit("phase_ended", phase=self.phase)
            self.phase = ""
            return None
        return TICK_SECONDS

    def is_done(self, index: int) -> bool:
        """Tell whether a worker has done the order, or cannot any more."""
        return self.row(index)[PHASE_DONE] == self.done or self.crew.pids[index] not in self.crew.pipes


def tasks_of(spec: dict[str, Any]) -> list[Task]:
    """Cut the load of a SPEC into one task a worker.

    Keys used: `url`, `connections`, `workers`, `ramp_rate` (connections/s or None), `message_rate`, `message_bytes`,
    `source_addresses`, `pending_max`, `handshake_timeout_seconds`, `echo_timeout_seconds`, `broadcast` (send broadcasts
    in the hold phase) and `proof` (`echo`, `ping`, or `auto` until `settle_proof` has decided); `dialect_of` uses
    others. To break limits on purpose also `destination_addresses` (of the server, instead of the URL's),
    `bind_without_no_port`, and `connections_before` (opened and closed before the workers are forked, each leaves its
    port in TIME_WAIT).
    """
    host, port, _, _ = parse_url(spec["url"])
    try:
        family, _, _, _, address = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"{host} is not known: {error.strerror}") from None
    workers, rate = spec["workers"], spec.get("ramp_rate")
    lanes = min(LANES, workers)
    shares = split(spec["connections"], workers)
    sources = tuple(spec.get("source_addresses") or ()) if family == _socket.AF_INET else ()
    tasks = []
    for index, share in enumerate(shares):
        before = sum(shares[index % lanes : index : lanes])
        tasks.append(
            Task(
                family=family,
                address=address,
                connections=share,
                first=sum(shares[:index]),
                sources=sources,
                destinations=tuple((there, port) for there in spec.get("destination_addresses") or ()),
                ports_at_bind=bool(spec.get("bind_without_no_port")),
                pending_max=max(1, spec.get("pending_max", 1024) // lanes),
                window=max(1, WINDOW // lanes),
                rate=rate / lanes if rate else None,
                start_after=(before + (index % lanes) / lanes) / (rate / lanes) if rate else 0.0,
                message_rate=spec.get("message_rate", 0.0),
                message_bytes=spec.get("message_bytes", 32),
                proof=spec.get("proof", ECHO),
                broadcast=bool(spec.get("broadcast")),
                timeout=spec.get("handshake_timeout_seconds", Task.timeout),
                echo_timeout=spec.get("echo_timeout_seconds", Task.echo_timeout),
            )
        )
    return tasks


def settle_proof(spec: dict[str, Any], tasks: list[Task]) -> None:
    """Decide what proves that a connection lives, for all workers alike, and report it."""
    asked = spec.get("proof", ECHO)
    proof, why = (ECHO, "the floor has nothing else") if spec["url"].startswith("tcp:") else (asked, "asked for")
    if proof == "auto":
        from wslab.load.swarm.probe import choose_proof

        proof, why = choose_proof(tasks[0], dialect_of(spec["url"], spec))  # type: ignore[arg-type]
    for task in tasks:
        task.proof = proof
    if "proof" in spec:
        emit("proof", proof=proof, asked=asked, why=why)


def leave_time_wait(task: Task, count: int) -> None:
    """Open and close connections as a program does that knows nothing of lingering, one after the other.

    Raises:
        OSError: one cannot be opened.
    """
    for number in range(count):
        plain = _socket.socket(task.family, _socket.SOCK_STREAM, 0)
        try:
            if task.sources:
                plain.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                plain.bind((task.sources[number % len(task.sources)], 0))
            plain.connect(task.address)
        finally:
            plain.close()


def main() -> int:
    """Run the swarm as its SPEC says until standard input ends or all workers have drained."""
    spec = read_spec()
    try:
        # Before the fork, so that all workers share it, and before another user is become, who may not read it.
        import wslab.load.swarm.worker

        if spec["url"].startswith("ws:"):
            import wslab.load.swarm.client_slowpath
        if spec.get("protocol"):
            import wslab.core.protocols
            import wslab.load.swarm.talk  # noqa: F401
    except ImportError as error:
        emit("error", message=f"the swarm cannot start: {error}")
        return 1
    settle(spec.get("uid"))
    fd = spec.get("board_fd")
    board = Scoreboard.create(spec["workers"] + 1) if fd is None else Scoreboard.attach(fd)
    try:
        master = Master(spec, board)
        settle_proof(spec, master.tasks)
        leave_time_wait(master.tasks[0], spec.get("connections_before", 0))
        master.make_workers()
    except (OSError, ValueError) as error:
        emit("error", message=f"the swarm cannot start: {error}")
        return 1
    workers = spec["workers"]
    try:
        master.crew.fork(workers)
    except OSError as error:
        emit("error", message=f"cannot start worker {len(master.crew.pids) + 1} of {workers}: {error.strerror}")
        return 1  # Workers that were forked already leave when their pipes end with this process.
    board.enter(master.first_row + workers, ROLE_SWARM)  # The master's own row: what it takes counts too.
    emit("ready", pids=[os.getpid(), *master.crew.pids])
    master.crew.watch(master.on_command, master.on_tick)
    master.crew.stop()
    if master.phase == "drain":
        emit("phase_ended", phase="drain")
    return 0


if __name__ == "__main__":
    sys.exit(main())
