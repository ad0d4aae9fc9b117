"""The steps of a climb in messages a second, as the supervisor runs them on the open connections.

A step is over when every worker has come to the end of its schedule and nothing that it sent is unanswered. Where
answers do not come, what was not sent yet is dropped after `SETTLE_SECONDS`, and the step is given up when the swarm
has had time to give up each message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wslab.core.histogram import quantile
from wslab.core.knee import STEP_EVENT, Climb, Step
from wslab.load import scoreboard as words
from wslab.load.messages import Reports
from wslab.load.scoreboard import PHASES, ROLE_SWARM, ROUNDTRIP, Scoreboard

SETTLE_SECONDS = 5.0
# Longer than a message is waited for.
GIVE_UP_SECONDS = 25.0
CLIMB_DONE = PHASES.index("climb")
# Workers whose command came late have sent little of what was due, and are not settled yet.
SENT_LEAST = 0.5


class MessageClimb:
    """One climb in progress.

    Args:
        reports: where steps are recorded.
        scoreboard: the counters of the load.
        latency_bound: seconds that p99 may take.
        send: takes a command to the swarm.
        now: monotonic time in seconds.
    """

    def __init__(
        self,
        reports: Reports,
        scoreboard: Scoreboard,
        latency_bound: float,
        send: Callable[[dict[str, Any]], None],
        now: float,
    ) -> None:
        self._reports, self._scoreboard, self._send = reports, scoreboard, send
        self._climb = Climb(latency_bound)
        self._over = self._quiet = False
        self._rate = self._seconds = 0.0
        self._started = self._ended = now
        self._answered: int | None = None  # answers at the end of the schedule; None while that lasts
        self._before: dict[int, int] = {}
        self._begin(now)

    def is_over(self, now: float) -> bool:
        """Do what is due, and return whether the knee is found."""
        if self._over:
            return True
        if self._answered is None:
            if now < self._started + self._seconds:
                return False
            self._answered, self._ended = self._total(words.RECEIVED) - self._before[words.RECEIVED], now
            self._scoreboard.next_step()
        waited = now - self._ended
        if not self._settled():
            if waited > SETTLE_SECONDS and not self._quiet:
                self._quiet = True
                self._send({"cmd": "quiet"})
            if waited < GIVE_UP_SECONDS:
                return False
        self._record(now)
        self._begin(now)
        return self._over

    def _begin(self, now: float) -> None:
        chosen = self._climb.next()
        self._open = self._total(words.OPEN)
        if chosen is None or not self._open:
            self._over = True
            return
        self._rate, self._seconds = chosen
        self._started = self._ended = now
        self._answered, self._quiet = None, False
        self._before = {word: self._total(word) for word in (words.SENT, words.RECEIVED, words.MESSAGES_FAILED)}
        self._histogram = self._scoreboard.histogram(ROUNDTRIP)
        self._scoreboard.next_step()
        self._send({"cmd": "step", "messages_per_second": self._rate / self._open, "seconds": self._seconds})

    def _settled(self) -> bool:
        through = all(
            row[words.PHASE_DONE] == CLIMB_DONE for row in self._scoreboard.of(ROLE_SWARM) if row[words.TARGET]
        )
        return through and not self._waiting() and self._sent() >= SENT_LEAST * self._rate * self._seconds

    def _sent(self) -> int:
        return self._total(words.SENT) - self._before[words.SENT]

    def _waiting(self) -> int:
        return self._total(words.SENT) - self._total(words.RECEIVED) - self._total(words.MESSAGES_FAILED)

    def _total(self, word: int) -> int:
        return self._scoreboard.total(word, ROLE_SWARM)

    def _record(self, now: float) -> None:
        counts = [
            after - before for after, before in zip(self._scoreboard.histogram(ROUNDTRIP), self._histogram, strict=True)
        ]
        due = round(self._rate * self._seconds)
        # What was dropped, or failed, never came back.
        unanswered = max(0, (due if self._quiet else self._sent()) - sum(counts))
        p50, p99, p999 = (quantile(counts, rank, unanswered) for rank in (0.5, 0.99, 0.999))
        answered = self._answered or 0
        # The look at the counters comes a little after the end of the schedule.
        late = answered < due
        step = Step(
            number=self._climb.steps + 1,
            messages_per_second=self._rate,
            seconds=self._seconds,
            connections_open=self._open,
            messages_due=due,
            messages_answered=answered,
            answered_per_second=answered / (self._ended - self._started) if late else self._rate,
            messages_unanswered=unanswered,
            roundtrip_seconds_p50=p50,
            roundtrip_seconds_p99=p99,
            roundtrip_seconds_p999=p999,
            started_seconds=self._elapsed(self._started),
            ended_seconds=self._elapsed(self._ended),
            settled_seconds=self._elapsed(now),
        )
        self._climb.took(step)
        self._reports.event(STEP_EVENT, **step.as_dict())

    def _elapsed(self, monotonic: float) -> float:
        return round(monotonic - self._reports.epoch, 6)
