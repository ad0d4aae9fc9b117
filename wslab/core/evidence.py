"""What a run recorded, in the form that the rules of the diagnosis need, and what it missed.

1. A counter of the kernel counts since boot and for the whole machine, so only its change over the run means
   anything; it is always quoted with both values.
2. `misses` is the only place that decides what was asked for and not reached: outcome, findings and figures follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from wslab.core.host import Host
from wslab.core.knee import RATE_KEPT, held_rate
from wslab.core.plan import Plan, loopback_addresses
from wslab.core.quantities import counted, parse_number
from wslab.core.records import ABORTED, Span
from wslab.core.timeline import (
    ACTIVE,
    Phase,
    Record,
    active,
    count_before_drain,
    last_phase,
    messages_between,
    open_at_plateau,
    timeline,
)

# What a ramp may take beyond its schedule before its rate is judged: short ramps are mostly start and end.
RAMP_GRACE_SECONDS = 1.0
# What a ramp may take longer where a few of its SYNs were lost: TCP sends one again after 1 s, and after 2 s more.
RETRY_SECONDS = 3.0
FEW_RETRIES = 0.05
# A message may take this many round trips of the link, where its buffers are small. What was sent so shortly before the
# end of the hold may still be on its way, at most half a second's worth.
ON_THE_WAY_ROUNDTRIPS, ON_THE_WAY_SECONDS = 10, 0.5
# Fewer messages than this are too few to judge a rate by.
MESSAGES_JUDGED = 100
# Failed messages, or unasked ones, are a miss above this share of the messages sent: one in a thousand.
MESSAGES_SPOILED = 0.001
# So few failed messages say that something failed, and nothing about who was busy: any of them may have had bad luck.
FEW_FAILED = 10

# The kernel's own names of the counters, as its tools print them.
COUNTERS = {
    "listen_overflows_total": "ListenOverflows",
    "listen_drops_total": "ListenDrops",
    "syn_cookies_total": "TCPReqQFullDoCookies",
    "syn_drops_total": "TCPReqQFullDrop",
    "syn_retransmits_total": "TCPSynRetrans",
    "retransmits_total": "RetransSegs",
    "tcp_memory_pressures_total": "TCPMemoryPressures",
    "tcp_aborts_on_memory_total": "TCPAbortOnMemory",
    "tcp_memory_bytes": "sockstat TCP mem bytes",
    "tcp_time_wait": "sockstat TCP tw",
    "file_handles": "file-nr",
    "conntrack_count": "nf_conntrack_count",
    "conntrack_drops_total": "nf_conntrack drop",
    "conntrack_chains_too_long_total": "nf_conntrack chainlength",
    "softnet_drops_total": "softnet_stat dropped",
    "segments_sent_total": "OutSegs",
    "resets_sent_total": "OutRsts",
    "link_drops_total": "qdisc dropped",
    "link_overlimits_total": "qdisc overlimits",
    "oom_kills_total": "vmstat oom_kill",
    "server_cpu_throttled_total": "nr_throttled",
    "swarm_cpu_throttled_total": "nr_throttled",
    "memory_headroom_bytes": "memory headroom bytes",
    "psi_memory_some_seconds": "pressure/memory some",
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The records of one run.

    Attributes:
        stage: the parameters asked for.
        plan: the layout.
        host: the limits as read before the run.
        samples: one mapping a second, None for what was not read.
        events: everything that happened, in order.
        aborted: whether the user ended it early, so that what was not tried is no miss.
    """

    stage: Mapping[str, Any]
    plan: Plan
    host: Host = field(default_factory=Host)
    samples: Sequence[Record] = ()
    events: Sequence[Record] = ()
    aborted: bool = False

    @classmethod
    def recorded(cls, manifest: Mapping[str, Any], samples: Sequence[Record], events: Sequence[Record]) -> Evidence:
        """Return the evidence of a recorded run, from its manifest, samples and events."""
        return cls(
            stage=manifest["stage"]["asked"],
            plan=plan_of(manifest),
            host=Host.from_record(manifest.get("limits") or {}),
            samples=samples,
            events=events,
            aborted=manifest.get("outcome") == ABORTED,
        )

    @cached_property
    def failures(self) -> Sequence[Record]:
        """Rows `{phase, errno, name, count, first_seconds}` over the whole run: the last table that was reported."""
        tables = [event["table"] for event in self.events if event.get("event") == "failures"]
        return tables[-1] if tables else []

    @cached_property
    def phases(self) -> list[Phase]:
        """The phases, from the events."""
        return timeline(self.events)

    @cached_property
    def asked(self) -> int:
        """Connections asked for."""
        return int(self.stage["connections"])

    @cached_property
    def opened(self) -> int:
        """Connections open when the ramp ended."""
        return open_at_plateau(self.phases, self.samples)

    @cached_property
    def reached(self) -> int:
        """The most connections that had been opened, including those lost again during the ramp."""
        ramp = last_phase(self.phases, "ramp")
        lost = int(ramp.end.get("connections_closed") or 0) if ramp else 0
        return self.opened + lost

    @cached_property
    def active(self) -> list[Record]:
        """The samples from the last one before the ramp up to the drain."""
        first = next((i for i, sample in enumerate(self.samples) if sample.get("phase") not in (None, "start")), 0)
        last = next((i for i, sample in enumerate(self.samples) if sample.get("phase") in ("drain", "done")), None)
        # The first sample of the drain closes the last interval before it.
        return list(self.samples[max(0, first - 1) : None if last is None else last + 1])

    @cached_property
    def loaded(self) -> list[Record]:
        """The samples taken while connections were opened or used."""
        return active(self.samples)

    def values(self, column: str) -> list[float]:
        """Return the values of a column over the run, without those that were not read."""
        return [sample[column] for sample in self.active if sample.get(column) is not None]

    def before(self, column: str) -> float | None:
        """Return the first value of a column."""
        return next(iter(self.values(column)), None)

    def when_ramp_began(self, column: str) -> float:
        """Return the largest value of a column up to the first sample of the ramp; 0 when it was not read."""
        first = next((i for i, sample in enumerate(self.active) if sample.get("phase") == "ramp"), 0)
        return max((sample.get(column) or 0 for sample in self.active[: first + 1]), default=0)

    def delta(self, column: str) -> float:
        """Return how much a counter rose over the run; 0 when it was not read."""
        values = self.values(column)
        return values[-1] - values[0] if values else 0

    def rose_at(self, *columns: str) -> int | None:
        """Return the number of the first sample in which one of these counters had risen; None if none did."""
        for number, sample in enumerate(self.active):
            if any((sample.get(column) or 0) > (self.before(column) or 0) for column in columns):
                return number
        return None

    @cached_property
    def looks(self) -> list[Record]:
        """The samples, and the counters that were read between them when failures of a new kind were counted."""
        begun, ended = (float(self.active[n].get("elapsed_seconds") or 0.0) if self.active else 0.0 for n in (0, -1))
        between = [event for event in self.named("counters") if begun < event["elapsed_seconds"] < ended]
        return sorted([*self.active, *between], key=lambda look: float(look.get("elapsed_seconds") or 0.0))

    def rose_within(self, *columns: str) -> Span | None:
        """Return the times of the last look before one of these counters rose and of the first after it."""
        before = {column: self.before(column) or 0 for column in columns}
        return self._within(lambda look: any((look.get(column) or 0) > before[column] for column in columns), columns)

    def became_within(self, column: str, least: float) -> Span | None:
        """Return the times of the looks between which a column reached `least`."""
        return self._within(lambda look: (look.get(column) or 0) >= least, (column,))

    def failed_within(self, phases: str = "", names: str = "") -> Span | None:
        """Return when the first of these failures was counted; None where the run did not record it."""
        times = [row.get("first_seconds") for row in self._errors(phases, names)]
        known = [float(at) for at in times if at is not None]
        return (min(known), min(known)) if known and len(known) == len(times) else None

    def _within(self, test: Callable[[Record], bool], columns: Sequence[str]) -> Span | None:
        """Return the times of the first look that meets a test and of the one before it."""
        # A look that does not have these columns says nothing about when they changed.
        looks = [look for look in self.looks if any(look.get(column) is not None for column in columns)]
        number = next((number for number, look in enumerate(looks) if test(look)), None)
        if number is None:
            return None
        before, at = (float(looks[n].get("elapsed_seconds") or 0.0) for n in (max(0, number - 1), number))
        return before, at

    def quote(self, column: str) -> str:
        """Return a counter with its kernel name and its value before and after: `ListenOverflows 3 → 412`."""
        values = self.values(column)
        name = COUNTERS.get(column, column)
        return f"{name} {values[0]:,} → {values[-1]:,}" if values else f"{name} not read"

    def errors(self, phases: str = "", names: str = "") -> int:
        """Return how many failures have one of these phases and one of these errno names; empty means any.

        Args:
            phases: names of phases, separated by spaces: `"connect upgrade"`.
            names: names of errnos, separated by spaces: `"EMFILE ENFILE"`.
        """
        return sum(int(row["count"]) for row in self._errors(phases, names))

    def quote_errors(self, phases: str = "", names: str = "") -> str:
        """Return failures as text: `connect EADDRNOTAVAIL × 1,200`."""
        return ", ".join(f"{row['phase']} {row['name']} × {row['count']:,}" for row in self._errors(phases, names))

    def named(self, *names: str) -> list[Record]:
        """Return the events with one of these names."""
        return [event for event in self.events if event.get("event") in names]

    def deaths(self, role: str) -> list[Record]:
        """Return the exit events of the processes of one end that ended unexpectedly."""
        return [
            event for event in self.named("process_exited") if event.get("role") == role and not event.get("expected")
        ]

    @property
    def timeouts(self) -> int:
        """Attempts and messages that timed out."""
        return self.errors(names="ETIMEDOUT")

    @property
    def stopped_by(self) -> str | None:
        """What cut the ramp short; None when it ended by itself."""
        ramp = last_phase(self.phases, "ramp")
        return ramp.end.get("stopped_by") if ramp else None

    @cached_property
    def misses(self) -> list[str]:
        """What was asked for and not reached, in words; empty for a healthy run."""
        return [words for _, words in self._missed]

    @cached_property
    def missed_in(self) -> tuple[str, ...]:
        """The phases in which something was missed, in their order."""
        phases = {phase for phase, _ in self._missed}
        return tuple(phase for phase in ACTIVE if phase in phases)

    @cached_property
    def _missed(self) -> list[tuple[str, str]]:
        """What was missed, each with its phase."""
        return [*self._missing_connections(), *self._missing_rates(), *self._spoiled_messages()]

    @property
    def missed_beside_connections(self) -> list[str]:
        """Missed rates and spoiled messages, in words."""
        return [words for _, words in (*self._missing_rates(), *self._spoiled_messages())]

    def _errors(self, phases: str, names: str) -> list[Record]:
        return [
            row
            for row in self.failures
            if (not phases or row["phase"] in phases.split()) and (not names or row["name"] in names.split())
        ]

    def _missing_connections(self) -> Iterator[tuple[str, str]]:
        if self.stopped_by == "caller":
            return
        failed = self.counted("connections_failed")
        if self.opened < self.asked:
            yield "ramp", f"{self.opened:,} of {self.asked:,} connections opened"
        elif failed:
            yield "ramp", f"{failed:,} attempts failed"
        verify = last_phase(self.phases, "verify")
        verified = verify.end.get("connections_verified") if verify else None
        if verified is not None and verified < self.opened:
            yield "verify", f"{verified:,} of {self.opened:,} connections verified"
        elif verified is None and not self.aborted:
            yield "verify", "the connections were not verified"
        for phase in self.phases:
            if phase.name not in ("hold", "climb", "verify"):
                continue
            kept, cut = phase.end.get("connections_open"), phase.end.get("stopped_by")
            if kept is not None and kept < self.opened:
                yield phase.name, f"{self.opened - kept:,} connections lost by the end of {phase.name}"
            if cut not in (None, "caller"):
                yield phase.name, f"{phase.name} cut short by {cut}"
        for role in ("server", "swarm"):
            if deaths := self.deaths(role):
                yield self._phase_of(deaths[0]), f"{counted(len(deaths), f'{role} process', 'es')} ended"

    def _phase_of(self, event: Record) -> str:
        at = event.get("elapsed_seconds") or 0.0
        return next((phase.name for phase in reversed(self.phases) if phase.started_seconds <= at), "start")

    def _missing_rates(self) -> Iterator[tuple[str, str]]:
        ramp, rate = last_phase(self.phases, "ramp"), self.stage.get("ramp_rate", "max")
        if ramp and ramp.seconds and rate not in ("max", None):
            per_second = parse_number(rate, "ramp_rate", "")
            retried = 0 < self.delta("syn_retransmits_total") <= FEW_RETRIES * self.opened
            grace = RAMP_GRACE_SECONDS + (RETRY_SECONDS if retried else 0.0)
            if ramp.seconds > self.opened / per_second / RATE_KEPT + grace:
                yield "ramp", f"{self.opened / ramp.seconds:,.0f} of {per_second:,.0f} connections a second"
        hold = last_phase(self.phases, "hold")
        if hold is None or not hold.seconds:
            return
        due = held_rate(self.stage.get("message_rate")) * self.opened * hold.seconds
        answered = messages_between(self.phases, hold)
        if answered is None or due < MESSAGES_JUDGED:
            return
        unanswered = int(hold.end.get("messages_sent") or 0) - int(hold.end.get("messages_received") or 0)
        roundtrip = min(self.values("link_roundtrip_seconds_min"), default=0.0)
        lately = min(ON_THE_WAY_SECONDS, ON_THE_WAY_ROUNDTRIPS * roundtrip) / hold.seconds
        under_way = min(max(0, unanswered), due * lately)
        if answered + under_way < RATE_KEPT * due:
            text = f"{answered / hold.seconds:,.0f} of {due / hold.seconds:,.0f} messages a second answered"
            yield "hold", text

    def _spoiled_messages(self) -> Iterator[tuple[str, str]]:
        if self.spoiled("messages_failed"):
            yield "hold", f"{self.counted('messages_failed'):,} of {self.counted('messages_sent'):,} messages failed"
        if self.spoiled("messages_unasked"):
            yield "hold", f"{self.unasked:,} unasked messages came from the server"

    def spoiled(self, key: str) -> bool:
        """Return whether more messages failed, or came unasked, than `MESSAGES_SPOILED` allows.

        A climb overloads the server on purpose: what fails in it belongs to its steps.
        """
        count = self.unasked if key == "messages_unasked" else self.counted(key) - self._failed_in_climb
        return count > MESSAGES_SPOILED * self.counted("messages_sent")

    @property
    def _failed_in_climb(self) -> int:
        hold, climb = last_phase(self.phases, "hold"), last_phase(self.phases, "climb")
        ends = [int(phase.end.get("messages_failed") or 0) for phase in (hold, climb) if phase and phase.end]
        return ends[1] - ends[0] if len(ends) == 2 else 0

    @property
    def too_few(self) -> bool:
        """Return whether all that was missed are so few messages that no comparison can tell their cause."""
        others = any(phase != "hold" for phase, _ in self._missed) or len(self._missed) > 1
        return not others and 0 < self.counted("messages_failed") < FEW_FAILED

    @property
    def unasked(self) -> int:
        """Messages that nobody asked for, without the echoes that came after they had been given up."""
        return max(0, self.counted("messages_unasked") - self.errors("echo hold", "ETIMEDOUT"))

    def counted(self, key: str) -> int:
        """Return a count of the swarm as the last phase before the drain left it, or as the last sample saw it."""
        return count_before_drain(self.phases, self.samples, key) or 0


def plan_of(manifest: Mapping[str, Any]) -> Plan:
    """Return the layout of a recorded run; for schema version 1 it follows from the stage and the specifications."""
    if manifest.get("plan"):
        return Plan.from_record(manifest["plan"])
    stage, swarm = manifest["stage"], (manifest.get("specs") or {}).get("swarm") or {}
    asked, effective = stage["asked"], {**stage["asked"], **(stage.get("effective") or {})}
    connections, shards, workers = (
        int(effective[key]) if effective.get(key) not in (None, "auto") else 1
        for key in ("connections", "server_shards", "swarm_workers")
    )
    addresses = effective.get("source_addresses")
    return Plan(
        connections=connections,
        server_shards=shards,
        swarm_workers=workers,
        connections_per_shard=int(effective.get("connections_per_shard") or -(-connections // max(1, shards))),
        connections_per_worker=int(effective.get("connections_per_worker") or -(-connections // workers)),
        source_addresses=loopback_addresses(int(addresses) if addresses not in (None, "auto") else 1),
        pending_max=int(effective.get("pending_max") or 1),
        memory_reserve_bytes=int(asked.get("memory_reserve") or 0),
        destinations=len(swarm.get("destination_addresses") or ()) or 1,
        ports_at_bind=bool(swarm.get("bind_without_no_port")),
        listener_ports=0 if effective.get("target") else 1,
    )
