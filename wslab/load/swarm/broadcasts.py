"""Broadcasts of the hold phase: one after the other, each until the last connection has it.

1. One connection sends a message; each worker notes on the board how many of its connections have it, and when the
   first and the last of them had. Messages are told apart by a hash, so the server may send nothing else meanwhile.
2. Time counts from when it was sent where the message comes back as it was. Where the server sends another one in its
   place, which may be its own, it counts from the first connection that has it.
3. A server may leave out the connection that has sent it.
"""

from __future__ import annotations

from time import monotonic_ns

from wslab.load import scoreboard as board
from wslab.load.prefork import emit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NS = 1_000_000_000
INTERVAL_NS = NS
TIMEOUT_NS = 15 * NS
# When only one connection is missing for so long, it is the sender, which the server leaves out.
SETTLED_NS = NS // 4
TICK_SECONDS = 0.01


class Broadcasts:
    """Has broadcasts sent and reports how long each took.

    Args:
        rows: the workers' rows of the board.
        send: has the worker of this index send one.
    """

    def __init__(self, rows: Sequence[memoryview[int]], send: Callable[[int], object]) -> None:
        self.rows, self.send = rows, send
        self.going = False
        self.sent_at = 0  # 0: none is under way
        self.next_at = 0

    def begin(self) -> None:
        """Send one after the other from now on."""
        self.going, self.sent_at, self.next_at = True, 0, monotonic_ns()

    def end(self) -> None:
        """Send no more; what is under way is reported as far as it came."""
        if self.going and self.sent_at:
            self.report(*self.spread(), cut=True)
        self.going = False

    def tick(self) -> float | None:
        """Look how far the one under way is; return the seconds until the next look."""
        if not self.going:
            return None
        now = monotonic_ns()
        if not self.sent_at:
            senders = [index for index, row in enumerate(self.rows) if row[board.OPEN]]
            if now >= self.next_at and senders:
                self.sent_at = now
                self.send(senders[0])
            return TICK_SECONDS
        count, first, last = self.spread()
        everyone = sum(row[board.OPEN] for row in self.rows)
        all_but_one = count == everyone - 1 > 0 and now - last >= SETTLED_NS
        if count >= everyone or all_but_one or now - self.sent_at >= TIMEOUT_NS:
            self.report(count, first, last, complete=count >= everyone or all_but_one)
            self.next_at, self.sent_at = max(now, self.sent_at + INTERVAL_NS), 0
        return TICK_SECONDS

    def spread(self) -> tuple[int, int, int]:
        """Return how many connections have the message, and when the first and the last had it, in ns."""
        groups: dict[int, tuple[int, int, int]] = {}
        for row in self.rows:
            first, last = row[board.BROADCAST_FIRST_NS], row[board.BROADCAST_LAST_NS]
            if first >= self.sent_at:
                count, before, after = groups.get(row[board.BROADCAST], (0, first, last))
                groups[row[board.BROADCAST]] = count + row[board.BROADCAST_COUNT], min(before, first), max(after, last)
        return max(groups.values(), default=(0, 0, 0))

    def report(self, count: int, first: int, last: int, *, complete: bool = False, cut: bool = False) -> None:
        """Emit what became of a broadcast; one that the end of the phase cut short is not judged."""
        sent = [
            row[board.BROADCAST_SENT_NS]
            for row in self.rows
            if row[board.BROADCAST_SENT_NS] >= self.sent_at
            and any(other[board.BROADCAST] == row[board.BROADCAST_SENT] for other in self.rows)
        ]
        emit(
            "broadcast",
            connections=sum(row[board.OPEN] for row in self.rows),
            received=count,
            seconds=round((last - (sent[0] if sent else first)) / NS, 6) if complete else None,
            counted_from="sent" if sent else "first",
            cut=cut,
        )
