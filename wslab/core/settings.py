"""What a target needs of a host: how large each setting has to be, with one margin.

An amount takes a `Need` and returns the value with which the target fits, always above what the target takes by itself.
Whether a setting has to change at all is decided elsewhere: a capacity is needed where its limit ends below the target;
what only makes a ramp smoother or the load lighter is recommended under a condition of its own.

1. What the plan solves by itself (more processes, more source addresses) is not a setting: nothing has to be changed.
2. A value is what the target takes and `MARGIN_PERCENT` more, rounded up to two digits, on top of what others use.
3. No value is ever lowered. Memory cannot be set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from wslab.core.host import Host
from wslab.core.plan import (
    FDS_RESERVED,
    Plan,
    address_span,
    cores,
    left,
    ports_per_address,
    process_capacity,
)

Value = int | str

# What a target takes is known to a few per cent; the rest of the margin is for other processes.
MARGIN_PERCENT = 10
# Most of the kernel's limits are signed ints.
INT_MOST = (1 << 31) - 1
# The kernel refuses an fs.nr_open above INT_MAX rounded down to a multiple of 64.
NR_OPEN_MOST = INT_MOST - 63
# PID_MAX_LIMIT of include/linux/threads.h.
PID_MOST = 1 << 22
# Processes and threads of everybody else: a desktop has about a thousand.
PROCESSES_OF_OTHERS = 1024
# Supervisor, recorder, the first processes of server and swarm, and threads of a notebook that may yet start.
PROCESSES_OF_FLEET = 64
# The ports that need no privilege.
PORTS_WIDEST, PORTS_WIDEST_COUNT = "1024 65535", 65535 - 1024 + 1
# The default of Linux since 5.4, and the backlog that the built-in servers ask for; and the most that fits 16 bits.
QUEUE, QUEUE_MOST = 4096, 65535
DEVICE_BACKLOG = 10_000
# Entries in one hash chain on average, above which each packet pays noticeably for its look-up.
CONNTRACK_CHAIN = 4
# The kernel rounds the hash table up to whole pages; a value that is one already stays as it was written.
BUCKETS_STEP = 4096
# Messages up to a page sit in the one page that a socket with data is charged anyway.
PAGE_BYTES = 4096
# Replies may stall for a retransmission; what is sent meanwhile waits in buffers.
STALL_SECONDS = 1.0
# A ramp rate at which no queue of usual length overflows, and a message rate that keeps no server busy.
SLOW_RAMP, FEW_MESSAGES = 5000, "0.001"
SMALL_RESERVE = "512MiB"

NEEDED, RECOMMENDED = "needed", "recommended"
# What a value is set on: a parameter of the stage, or something of the machine.
PARAMETER, SYSCTL, RLIMIT, CGROUP, ADVICE = "parameter", "sysctl", "rlimit", "cgroup", "advice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a stage asks of a host.

    Attributes:
        host: the limits as they are.
        plan: the layout of the stage; `plan.connections` is the target.
        message_bytes: size of a message.
        message_rate: messages per second and connection.
    """

    host: Host
    plan: Plan
    message_bytes: int = 32
    message_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """One way to lift a limit: what is set, and to how much.

    Attributes:
        kind: `parameter` of the stage, `sysctl`, `rlimit`, `cgroup`, or `advice`, a command without a value.
        key: name of the parameter, the sysctl, the resource limit or the file of the control group.
        value: the value with which the target fits; unused for advice.
        command: what to type for advice.
        present: the value as it is; None where the host has no such setting.
        when: whether a target needs it; None means where the limit ends below the target.
        rank: `needed` or `recommended`, for settings.
        most: the largest value that the kernel takes.
        why: what needs it, one phrase.
        per_container: whether a container can have a value of its own.
    """

    kind: str
    key: str = ""
    value: Callable[[Need], Value] = lambda need: 0
    command: str = ""
    present: Callable[[Host], Value | None] = lambda host: None
    when: Callable[[Need], bool] | None = None
    rank: str = NEEDED
    most: int = INT_MOST
    why: str = ""
    per_container: bool = False

    @property
    def is_setting(self) -> bool:
        """Whether it is set on the machine."""
        return self.kind in (SYSCTL, RLIMIT, CGROUP)

    def amount(self, need: Need) -> Value:
        """Return the value that the target needs, within what the kernel takes."""
        value = self.value(need)
        return min(value, self.most) if isinstance(value, int) and self.is_setting else value

    def raises(self, need: Need) -> bool:
        """Return whether the value is above the present one; True for what has no present value."""
        present, amount = self.present(need.host), self.amount(need)
        if not self.is_setting:
            return True
        return present is not None and (amount > present if _ints(amount, present) else amount != present)  # type: ignore[operator]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of a machine that must change for a target, or should.

    Attributes:
        key: name of the sysctl; `nofile` and `nproc` for limits of a process; `pids.max`, `memory.max` of a control
            group.
        kind: `sysctl`, `rlimit` or `cgroup`.
        rank: `needed` or `recommended`.
        limit: the limit that it lifts.
        present: the value as it is.
        needed: the value that the target needs; text where the setting has several numbers.
        why: what needs it, one phrase.
        needs_root: whether it takes root.
        per_container: whether a container can have a value of its own.
    """

    key: str
    kind: str
    rank: str
    limit: str
    present: Value
    needed: Value
    why: str
    needs_root: bool
    per_container: bool

    @property
    def command(self) -> str:
        """The command that sets it, until the next boot or for this shell."""
        return command_of(self.kind, self.key, self.needed)

    def as_dict(self) -> dict[str, Any]:
        """Return the setting as it is written to JSON."""
        return asdict(self)


def command_of(kind: str, key: str, value: Value) -> str:
    """Return the command that sets a value on the machine, until the next boot or for this shell."""
    if kind == SYSCTL:
        return f"sudo sysctl -w {assignment(key, value)}"
    if kind == RLIMIT:
        return f"sudo prlimit --pid $$ --{key}={value}:{value}"
    return f'sudo systemctl set-property --runtime "user-$(id -u).slice" {CGROUP_PROPERTIES[key]}={value}'


def assignment(key: str, value: Value) -> str:
    """Return `key=value` as a shell takes it: in quotes where the value has several numbers."""
    text = f"{key}={value}"
    return f'"{text}"' if " " in text else text


# The file of a control group, and the property of systemd that sets it.
CGROUP_PROPERTIES = {"pids.max": "TasksMax", "memory.max": "MemoryMax"}


def joined(*values: int | None) -> str | None:
    """Return a setting of several numbers as the text it is written with; None where one is not known."""
    return None if None in values else " ".join(map(str, values))


def round_up(value: int) -> int:
    """Round up to two digits: 4,400,001 to 4,500,000."""
    step: int = 10 ** max(0, len(str(value)) - 2)
    return -(-value // step) * step


def with_margin(value: int) -> int:
    """Add the margin to an amount."""
    return -(-value * (100 + MARGIN_PERCENT) // 100)


# Amounts of parameters of the stage


def addresses(need: Need) -> int:
    """Return the source addresses with which a free port is found at once."""
    return -(-need.plan.connections // address_span(need.host))


def shards(need: Need) -> int:
    """Return the server shards that can hold the target, at least one more than there are."""
    return max(need.plan.server_shards + 1, -(-need.plan.connections // process_capacity(need.host)))


def workers(need: Need) -> int:
    """Return the swarm workers that can hold the target, at least one more than there are."""
    return max(need.plan.swarm_workers + 1, -(-need.plan.connections // process_capacity(need.host)))


# Amounts of descriptors


def fds(connections: int, host: Host) -> int:
    """Return the fd limit of a process with so many connections; the margin is no reason to exceed fs.nr_open."""
    bare, wanted = connections + FDS_RESERVED, round_up(with_margin(connections) + FDS_RESERVED)
    most = host.nr_open or INT_MOST
    return min(wanted, most) if bare <= most else wanted


def fds_of_fullest(need: Need) -> int:
    """Return the fd limit of the fullest process of the layout."""
    return fds(max(need.plan.connections_per_shard, need.plan.connections_per_worker), need.host)


def fds_of_shard(need: Need) -> int:
    """Return the fd limit of a server shard."""
    return fds(need.plan.connections_per_shard, need.host)


def fds_of_worker(need: Need) -> int:
    """Return the fd limit of a swarm worker."""
    return fds(need.plan.connections_per_worker, need.host)


def useful_processes(need: Need) -> int:
    """Return how many processes an end can use: half of the cores each."""
    return max(1, cores(need.host) // 2)


def fds_of_few(need: Need) -> int:
    """Return the fd limit with which no more processes are needed than the cores can use."""
    wanted = round_up(with_margin(-(-need.plan.connections // useful_processes(need))) + FDS_RESERVED)
    return min(wanted, need.host.nr_open or INT_MOST)


def too_many_processes(need: Need) -> bool:
    """Return whether the fd limit forces more processes than the cores can use."""
    return -(-need.plan.connections // process_capacity(need.host)) > useful_processes(need)


def open_files_of_one(need: Need) -> int:
    """Return the fs.nr_open for the fullest process, or for a single process where the fullest fits already."""
    fullest = max(need.plan.connections_per_shard, need.plan.connections_per_worker)
    fits = fullest + FDS_RESERVED <= (need.host.nr_open or INT_MOST)
    return fds(need.plan.connections if fits else fullest, need.host)


def above_nr_open(need: Need) -> bool:
    """Return whether the fd limit of the fullest process has to be above fs.nr_open."""
    short = need.host.fd_hard is not None and fds_of_fullest(need) > need.host.fd_hard
    return short and fds_of_fullest(need) > (need.host.nr_open or INT_MOST)


# Amounts of capacities of the kernel


def room_for(each: int, limit: int | None, used: int | None, need: Need) -> int:
    """Return the amount of a capacity: what others use of it, and `each` units per connection."""
    in_use = max(0, (limit or 0) - (left(limit, used) or 0))
    return round_up(in_use + with_margin(need.plan.connections * each))


def ports_widest(need: Need) -> str:
    """Return the widest range of ports."""
    return PORTS_WIDEST


def ports_enough(need: Need) -> bool:
    """Return whether the source addresses of the plan need the widest port range, and it is enough."""
    count = len(need.plan.source_addresses)
    present = ports_per_address(need.host, need.plan.listener_ports)
    return present * count * need.plan.destinations < need.plan.connections <= PORTS_WIDEST_COUNT * count


def buckets(need: Need) -> int:
    """Return the hash buckets with which the chains stay short, in whole pages."""
    return max(1, -(-with_margin(need.plan.connections) // CONNTRACK_CHAIN // BUCKETS_STEP)) * BUCKETS_STEP


def chains_long(need: Need) -> bool:
    """Return whether the target makes the hash chains of tracked connections long."""
    host = need.host
    return bool(host.conntrack_tracking) and (host.conntrack_buckets or 0) * CONNTRACK_CHAIN < need.plan.connections


def group_bytes(need: Need) -> int:
    """Return the memory of a control group that holds both ends."""
    return round_up(
        (need.host.memory_cgroup_used_bytes or 0)
        + need.plan.start_bytes
        + with_margin(need.plan.connections * need.plan.bytes_per_connection)
    )


# Amounts of processes


def _ours(need: Need) -> int:
    return need.plan.server_shards + need.plan.swarm_workers


def processes(need: Need) -> int:
    """Return room for the processes of both ends beside those of others."""
    return round_up(with_margin(_ours(need)) + PROCESSES_OF_OTHERS)


def processes_short(most: int | None, need: Need) -> bool:
    """Return whether a limit of processes leaves too little room for both ends; negative stands for no limit."""
    return most is not None and 0 <= most < _ours(need) + PROCESSES_OF_OTHERS


def nproc_short(need: Need) -> bool:
    """Return whether RLIMIT_NPROC leaves too little room; the kernel does not hold root to it."""
    return bool(need.host.uid) and processes_short(need.host.nproc_soft, need)


def tasks(need: Need) -> int:
    """Return room for the processes of both ends beside those that the control group has already."""
    used = (need.host.pids_cgroup_max or 0) - (left(need.host.pids_cgroup_max, need.host.pids_cgroup_used) or 0)
    return round_up(used + with_margin(_ours(need)) + PROCESSES_OF_FLEET)


def tasks_short(need: Need) -> bool:
    """Return whether the control group has too little room for the processes of both ends."""
    room = left(need.host.pids_cgroup_max, need.host.pids_cgroup_used)
    return room is not None and room < _ours(need) + PROCESSES_OF_FLEET


# Amounts of queues and buffers


def queue(present: int | None) -> int:
    """Return the usual length of a queue, or the longest where it is that long already."""
    return QUEUE if (present or 0) < QUEUE else QUEUE_MOST


def _in_flight(need: Need) -> int:
    return min(need.plan.pending_max, need.plan.connections)


def accept_queue_short(need: Need) -> bool:
    """Return whether the accept queue is shorter than usual, so that handshakes in flight are kept to half of it."""
    return (need.host.somaxconn or QUEUE) < min(QUEUE, need.plan.connections)


def syn_queue_short(need: Need) -> bool:
    """Return whether the handshakes in flight could fill the SYN queue; SYN cookies lift that limit."""
    return not need.host.syncookies and (need.host.syn_backlog or QUEUE) < 2 * _in_flight(need)


def device_backlog(need: Need) -> int:
    """Return the usual long backlog of a CPU, or ten times the present one."""
    present = need.host.netdev_max_backlog or 0
    return DEVICE_BACKLOG if present < DEVICE_BACKLOG else 10 * present


def device_backlog_short(need: Need) -> bool:
    """Return whether handshakes in flight could fill the backlog of the CPUs."""
    return _in_flight(need) > (need.host.netdev_max_backlog or DEVICE_BACKLOG) * cores(need.host)


def _tcp_marks(host: Host) -> tuple[int, int, int]:
    return (host.tcp_mem_pages_low or 0, host.tcp_mem_pages_pressure or 0, host.tcp_mem_pages_high or 0)


def _tcp_high(need: Need) -> int:
    """Return the pages that messages take in buffers during a stall, at most half of the machine's memory."""
    host, pages = need.host, -(-need.message_bytes // PAGE_BYTES)
    waiting = int(need.plan.connections * min(1.0, need.message_rate * STALL_SECONDS))
    # A message is buffered at the sender until it is acknowledged, and at the receiver until it is read.
    high = round_up(with_margin(waiting * pages * 2)) if pages > 1 else 0
    return min(high, (host.memory_total_bytes or 0) // (host.page_bytes or PAGE_BYTES) // 2)


def tcp_mem(need: Need) -> str:
    """Return tcp_mem with room for the messages buffered in a stall, or twice the present values if those have room.

    The kernel's own proportions are kept: pressure at two thirds of the high mark, low at half of it.
    """
    marks, high = _tcp_marks(need.host), _tcp_high(need)
    if high <= marks[2]:
        return " ".join(str(2 * mark) for mark in marks)
    wanted = (high // 2, high * 2 // 3, high)
    return " ".join(str(max(pair)) for pair in zip(wanted, marks, strict=True))


def tcp_mem_short(need: Need) -> bool:
    """Return whether messages take more in a stall than TCP may have in buffers."""
    return _tcp_high(need) > _tcp_marks(need.host)[2]


def _ints(*values: object) -> bool:
    return all(isinstance(value, int) for value in values)
