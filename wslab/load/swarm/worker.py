"""One process of the swarm: obey the master, do what is due, hear what comes, publish what was counted."""

from __future__ import annotations

import errno
import os
import resource
from select import EPOLLERR, EPOLLIN, EPOLLOUT
from time import monotonic

from wslab.load.scoreboard import (
    CAPACITY,
    CLOSED,
    FAILED,
    MESSAGES_FAILED,
    MESSAGES_UNASKED,
    OPEN,
    OPENED,
    PENDING,
    PHASE_DONE,
    PID,
    RECEIVED,
    ROLE,
    ROLE_SWARM,
    SENT,
    TARGET,
    VERIFIED,
)
from wslab.load.swarm.dialler import CHECK_SECONDS, RAMP_DONE
from wslab.load.swarm.talker import Talker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wslab.load.swarm.dialects import Tcp, WebSocket
    from wslab.load.swarm.task import Task

EVENTS_PER_POLL = 256
# Commands of the master, one byte each; a digit means: verify in so many passes.
RAMP, HALT, HOLD, QUIET, DRAIN = b"R", b"H", b"T", b"Q", b"D"


class Worker(Talker):
    """The event loop of one swarm process.

    Args:
        task: what to do.
        index: number of this worker, from 0.
        commands: descriptor that one-byte commands come from; its end means that the master is gone.
        row: this process's row of the board.
        dialect: what is said on a connection.
    """

    def __init__(self, task: Task, index: int, commands: int, row: memoryview[int], dialect: WebSocket | Tcp) -> None:
        super().__init__(task, index, row, dialect)
        self.commands = commands
        self.next_check = 0.0
        self.read_bytes = max(4096, task.message_bytes + 64)
        row[PID], row[ROLE], row[TARGET] = os.getpid(), ROLE_SWARM, task.connections
        row[CAPACITY] = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - self.epoll.fileno() - 1

    def run(self) -> None:
        """Obey commands until the master is gone or says to drain."""
        self.epoll.register(self.commands, EPOLLIN)
        poll, read, commands = self.epoll.poll, os.read, self.commands
        connecting, upgrading = self.connecting, self.upgrading
        while True:
            wait = self.do_what_is_due(monotonic())
            for fd, mask in poll(wait, EVENTS_PER_POLL):
                if fd == commands:
                    if not self.obey(read(fd, 64)):
                        return
                    continue
                if mask & EPOLLERR:
                    self.lost(fd, self.error_of(fd))
                    continue
                if mask & EPOLLOUT:
                    if fd in connecting:
                        self.connected(fd)
                    else:
                        self.flush(fd)
                    continue
                try:
                    data = read(fd, self.read_bytes)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self.lost(fd, error.errno or 0)
                    continue
                if not data:
                    self.lost(fd, errno.ESHUTDOWN)
                elif fd in upgrading:
                    self.answered(fd, data)
                else:
                    self.heard(fd, data)
            self.publish()

    def obey(self, commands: bytes) -> bool:
        """Carry out commands; False when it is time to go."""
        for command in map(chr, commands):
            if command == "R":
                self.dialling, self.began = True, monotonic()
            elif command == "H":
                self.halt()
            elif command == "T":
                self.start_talking(monotonic())
            elif command == "Q":
                self.talking = False
            elif command == "D":
                return False
            else:
                self.start_verifying(int(command))
        return bool(commands)

    def halt(self) -> None:
        """Dial no more; the ramp is over once the attempts under way are."""
        if self.dialling:
            self.task.connections = self.dialled
        else:
            self.row[PHASE_DONE] = RAMP_DONE

    def do_what_is_due(self, now: float) -> float:
        """Dial, talk and give up as the schedules say; return the seconds until something is due again."""
        wait = -1.0
        if self.dialling:
            wait = self.dial_what_is_due(now)
        if self.talking:
            talk_wait = self.talk_as_scheduled(now)
            wait = talk_wait if wait < 0 else min(wait, talk_wait)
        elif self.verifying:
            self.verify_more(now)
        if now >= self.next_check:
            self.next_check = now + CHECK_SECONDS
            self.give_up(now)
        if wait < 0 and (self.verifying or self.connecting or self.upgrading or self.waiting):
            return CHECK_SECONDS
        return wait

    def give_up(self, now: float) -> None:
        """End what has waited too long for an answer."""
        begun = now - self.task.timeout
        overdue = [fd for fd, (_, started_at) in self.connecting.items() if started_at <= begun]
        overdue += [fd for fd, (_, started_at, _) in self.upgrading.items() if started_at <= begun]
        for fd in overdue:
            self.lost(fd, errno.ETIMEDOUT)
        self.give_up_echoes(now)

    def publish(self) -> None:
        """Write the counters to the board."""
        row = self.row
        row[PENDING] = len(self.connecting) + len(self.upgrading)
        row[OPEN], row[OPENED], row[FAILED], row[CLOSED] = self.open, self.opened, self.failed, self.closed
        row[SENT], row[RECEIVED], row[MESSAGES_FAILED] = self.sent, self.received, self.messages_failed
        row[VERIFIED], row[MESSAGES_UNASKED] = self.verified, self.messages_unasked
