"""What each limit is to the engineer who meets it: how it looks, what proves it, what looks alike, and an example.

What it is called, where it is read and what lifts it stand in the table of limits; here is what that table cannot say.
Every name that a finding can have is explained. The examples are evidence of recorded runs, quoted as it was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is known of a limit beside its row in the table.

    Attributes:
        limit: its name.
        what: what it is and when it ends a climb.
        symptoms: what a user sees: errno, messages, delays.
        proof: what proves it.
        look_alikes: limits that look the same, each with what tells them apart.
        example: evidence of a recorded run.
        title: what it is in a few words, where the table has no row for it, or several.
        reads: where it is read, where the table has no row for it.
        remedy: what lifts it, where the table has no row for it.
    """

    limit: str
    what: str
    symptoms: str
    proof: str
    look_alikes: Mapping[str, str] = field(default_factory=dict)
    example: str = ""
    title: str = ""
    reads: str = ""
    remedy: str = ""


_ROWS: tuple[Explanation, ...] = (
    Explanation(
        limit="fd_limit",
        title="file descriptors of a process",
        what="Each process may have RLIMIT_NOFILE descriptors open, and each connection takes one at either end. "
        "The soft limit is often 1,024 (`ulimit -n`); a process may raise it to the hard limit without root.",
        symptoms="accept or connect: EMFILE, `Too many open files`. A server that accepts no more leaves connections "
        "in its accept queue: clients connect and then wait for an answer that does not come. Some servers spin at "
        "100 % of a core, as the listener stays readable.",
        proof="EMFILE names it. For a server: its descriptors in /proc/PID/fd are as many as `Max open files` in "
        "/proc/PID/limits.",
        look_alikes={
            "file_max": "there the errno is ENFILE, and `file-nr` is at `file-max`",
            "nr_open": "the same errno; the hard limit stands at fs.nr_open, so that it cannot be raised",
            "accept_queue": "the queue overflows as well once nothing is accepted; descriptors are then used up",
        },
        example="shards without a free descriptor 0 → 1 of 1; fds of the fullest shard 9 → 3,986; "
        "RLIMIT_NOFILE 4,000 a process",
    ),
    Explanation(
        limit="nr_open",
        what="The most that the fd limit of a process can be set to, 1,048,576 unless it was changed. It is why one "
        "process holds a million connections and not one more.",
        symptoms="`ulimit -n` or setrlimit: EPERM, `Operation not permitted`, also for root; systemd and Docker start "
        "the service with fewer descriptors than its unit says. Then as `fd_limit`.",
        proof="EMFILE while the hard limit of the process equals fs.nr_open.",
        look_alikes={"fd_limit": "its hard limit is below fs.nr_open, so that it can be raised alone"},
        example="shards without a free descriptor 0 → 1 of 1; fds of the fullest shard 428 → 4,082; "
        "fs.nr_open 4,096 a process",
    ),
    Explanation(
        limit="file_max",
        what="Open files of the whole system: two a connection where both ends run on one host. Processes with "
        "CAP_SYS_ADMIN, such as root's, are exempt.",
        symptoms="ENFILE, `Too many open files in system`, from connect, accept and from any program that opens a "
        "file, the shell included; the kernel logs `VFS: file-max limit N reached`.",
        proof="ENFILE names it; the first number of /proc/sys/fs/file-nr is near the third.",
        look_alikes={"fd_limit": "there the errno is EMFILE, and one process is full, not the system"},
        example="connect ENFILE × 111; file-nr 520 → 10,610 of fs.file-max 12,454",
    ),
    Explanation(
        limit="ephemeral_ports",
        what="A client needs a free port for each connection from one source address to one address and port of a "
        "server: 28,232 with the default range 32768–60999, fewer where ports are reserved or in use.",
        symptoms="connect: EADDRNOTAVAIL, `Cannot assign requested address`, at about 28,232 connections; before "
        "that connect gets slow, as the kernel searches for a free port. The same at a proxy towards its backend.",
        proof="EADDRNOTAVAIL from connect names it; no counter of the kernel exists.",
        look_alikes={
            "time_wait": "the ports are enough for what is open; closed connections keep the rest for 60 s",
            "bind_ports": "there bind fails with EADDRINUSE, as it takes the port for all destinations",
            "conntrack": "attempts that wait keep their ports until they time out, so that both are met together; "
            "the open connections then end below the number of ports",
            "firewall": "as for conntrack: dropped attempts keep their ports while they wait",
        },
        example="connect EADDRNOTAVAIL × 101; 1,999 ports × 1 source address = 1,999 (of 2,000, without 1 the server's "
        "own) for 3,000 connections",
    ),
    Explanation(
        limit="bind_ports",
        what="A client that binds its source address before connect gets a port at once, one that is free towards "
        "every destination. With IP_BIND_ADDRESS_NO_PORT the port is chosen by connect, per destination.",
        symptoms="bind: EADDRINUSE, `Address already in use`, at about 28,232 connections of one source address, "
        "however many servers are dialled.",
        proof="EADDRINUSE from a bind to port 0 names it.",
        look_alikes={"ephemeral_ports": "there connect fails, with EADDRNOTAVAIL"},
        example="bind: connect EADDRINUSE × 101; 1,999 ports an address",
    ),
    Explanation(
        limit="time_wait",
        what="The end that closes first keeps the port of a connection for 60 s (TIME_WAIT). A test that runs "
        "again within a minute finds as many ports fewer.",
        symptoms="connect: EADDRNOTAVAIL although few connections are open, soon after many were closed; gone a "
        "minute later.",
        proof="EADDRNOTAVAIL, with as many sockets in TIME_WAIT (`tw` in /proc/net/sockstat, `ss -tan state "
        "time-wait`) as ports are missing.",
        look_alikes={"ephemeral_ports": "the ports are too few for what was asked for, also without TIME_WAIT"},
        example="connect EADDRNOTAVAIL × 108; 983 connections in TIME_WAIT (sockstat tw) when the ramp began",
    ),
    Explanation(
        limit="conntrack",
        what="Where a stateful rule is loaded (firewalld, Docker, Kubernetes), the kernel tracks every connection "
        "in a table of nf_conntrack_max entries; packets of new ones are dropped once it is full.",
        symptoms="Connects time out without any errno, also those of ssh to the same host; open connections go on. "
        "dmesg: `nf_conntrack: table full, dropping packet`.",
        proof="nf_conntrack_count stands at nf_conntrack_max, and `drop` in /proc/net/stat/nf_conntrack rises "
        "(`conntrack -S`).",
        look_alikes={
            "accept_queue": "there ListenOverflows rises, and `drop` does not",
            "firewall": "there a rule drops, and the table has room",
            "conntrack_buckets": "there `chaintoolong` rises, and the table has room",
            "ephemeral_ports": "EADDRNOTAVAIL from attempts that wait while their packets are dropped",
        },
        example="nf_conntrack drop 0 → 2,000; nf_conntrack_count 0 → 1,500 of 1,500; connect ETIMEDOUT × 1,000",
    ),
    Explanation(
        limit="conntrack_buckets",
        what="The hash table behind connection tracking. With more than a few entries a bucket every packet takes "
        "longer, and from some dozens on the kernel drops what would join the bucket.",
        symptoms="New connections get slower as their number grows, with CPU time in soft interrupts; in the end some "
        "connects time out.",
        proof="`chaintoolong` in /proc/net/stat/nf_conntrack rises; nf_conntrack_count is far above "
        "nf_conntrack_buckets.",
        look_alikes={"conntrack": "there the table is full: nf_conntrack_count equals nf_conntrack_max"},
        example="nf_conntrack chainlength 0 → 3,529; nf_conntrack_count 0 → 16,944 in 512 buckets",
    ),
    Explanation(
        limit="epoll_watches",
        what="Sockets that epoll watches for all processes of one user together, root included: by default 4 % of "
        "the low memory, about 117,000 connections a GiB with both ends under one user.",
        symptoms="epoll_ctl: ENOSPC, `No space left on device`, with disks and memory free. Programs that do not "
        "expect it drop the connection or spin.",
        proof="ENOSPC from epoll_ctl names it.",
        look_alikes={"memory_machine": "the climb stops dead as well, but memory is used up and processes are killed"},
        example="epoll_ctl: connect ENOSPC × 115; 5,938 watches for 2,969 connections, fs.epoll.max_user_watches 6,000",
    ),
    Explanation(
        limit="memory_machine",
        what="The memory of the machine. A connection on loopback takes some 8 KiB of the kernel, which no process "
        "is charged for, beside what server and client keep for it.",
        symptoms="Processes end by signal 9, also others than the load; dmesg: `Out of memory: Killed process`. "
        "MemAvailable still looks well, for it counts what open sockets pin.",
        proof="A process ended by signal 9, oom_kill in /proc/vmstat rose with it, and next to no memory was left.",
        look_alikes={
            "memory_cgroup": "the machine has memory left; a control group has not",
            "server_died": "signal 9 without oom_kill: somebody killed it",
            "memory_reserve": "the ramp was stopped before, at a bound of the stage",
            "epoll_watches": "the climb stops dead with memory free",
        },
        example="process_exited: swarm pid 193 by signal 9; vmstat oom_kill 0 → 1; least memory headroom 9.4 MiB",
    ),
    Explanation(
        limit="memory_reserve",
        what="A bound of the stage and not of the kernel: the ramp stops when the memory that is left falls to "
        "memory_reserve, or when the load has used memory_cap, so that nothing has to be killed.",
        symptoms="The ramp ends early; what is open stays open and is measured.",
        proof="The event memory_reserve_reached or memory_cap_reached in the run.",
        look_alikes={"memory_machine": "there processes were killed"},
        example="memory_reserve_reached: 21 GiB left, reserve 21 GiB",
    ),
    Explanation(
        limit="memory_cgroup",
        what="The memory of a container or control group (memory.max). The kernel charges it for sockets and their "
        "buffers as well, so that a server may be killed far above its RSS.",
        symptoms="The server ends by signal 9; dmesg: `Memory cgroup out of memory`; Docker and Kubernetes: "
        "OOMKilled, exit code 137.",
        proof="A process ended by signal 9, oom_kill in /proc/vmstat rose, and the machine had memory left.",
        look_alikes={
            "memory_machine": "next to no memory was left on the machine",
            "server_died": "signal 9 without oom_kill: somebody killed it",
        },
        example="process_exited: server pid 30716 by signal 9; vmstat oom_kill 3 → 4; least memory headroom 21.1 GiB, "
        "control group limit 48 MiB",
    ),
    Explanation(
        limit="process_limit",
        what="Processes and threads of a user (RLIMIT_NPROC, not for root), of a container (pids.max), or of the "
        "machine (pid_max, threads-max).",
        symptoms="fork: EAGAIN, `Resource temporarily unavailable`; a server starts with fewer workers, or not at "
        "all; a JVM says `unable to create native thread`.",
        proof="EAGAIN from fork names it.",
        look_alikes={"server_died": "the process was there, and ended"},
        example="fork: cannot start worker 12 of 16: Resource temporarily unavailable; pid_max 32,768, "
        "threads_max 192,731, pids_cgroup_max 12",
    ),
    Explanation(
        limit="accept_queue",
        what="Connections that the kernel has completed and the server has not accepted yet. The queue is as long as "
        "the backlog that the server gives to listen(), at most net.core.somaxconn: asyncio gives 100, Node 511.",
        symptoms="Some connects take 1 s, 3 s or 7 s longer, as SYNs are sent again; in a fast ramp some time out. "
        "`ss -ltn` shows Recv-Q above Send-Q.",
        proof="ListenOverflows and ListenDrops in /proc/net/netstat (`nstat -az`) rise by as much as failed.",
        look_alikes={
            "syn_queue": "there TCPReqQFullDrop or TCPReqQFullDoCookies rises first",
            "fd_limit": "a server without descriptors accepts nothing, so that its queue overflows as well",
            "server_silent": "the server accepts nothing at all, and is idle",
            "server_cpu": "the server is too slow to accept: its core is full",
            "conntrack": "there `drop` of nf_conntrack rises, and ListenOverflows does not",
        },
        example="ListenOverflows 0 → 2,817; ListenDrops 0 → 2,817; somaxconn 16; upgrade ETIMEDOUT × 141",
    ),
    Explanation(
        limit="syn_queue",
        what="Connections of which the kernel has only the SYN. When the queue is full it answers with SYN cookies, "
        "or drops SYNs where cookies are off.",
        symptoms="Connects get slow over links with a long round trip, or time out; dmesg: `Possible SYN flooding on "
        "port N. Sending cookies.`",
        proof="TCPReqQFullDoCookies or TCPReqQFullDrop in /proc/net/netstat rises, before ListenOverflows does.",
        look_alikes={"accept_queue": "there ListenOverflows rises first: the handshake was completed"},
        example="TCPReqQFullDoCookies 0 → 0; TCPReqQFullDrop 0 → 2,248; connect ETIMEDOUT × 870",
    ),
    Explanation(
        limit="tcp_mem",
        what="Pages that the buffers of all TCP sockets may take together. Idle connections take none; many large "
        "messages at once do.",
        symptoms="Connections are reset or stall while messages are large or receivers slow; dmesg: `TCP: out of "
        "memory -- consider tuning tcp_mem`.",
        proof="TCPAbortOnMemory rises; TCPMemoryPressures says that the limit came near. `mem` in /proc/net/sockstat "
        "is near the third number of tcp_mem.",
        look_alikes={"server_cpu": "what a busy server does not read fills the buffers as well: its core is full"},
        example="TCPMemoryPressures 0 → 19; TCPAbortOnMemory 0 → 0; at most 4,317,184 bytes in socket buffers",
    ),
    Explanation(
        limit="device_backlog",
        what="Packets that wait for a CPU to handle them (net.core.netdev_max_backlog), on loopback and where packets "
        "are spread over CPUs.",
        symptoms="Stalls of 200 ms and more, as segments are sent again, while no end is busy.",
        proof="The second column of /proc/net/softnet_stat rises by as much as failed.",
        look_alikes={"link": "there the queue of the interface drops: `tc -s qdisc`"},
        example="softnet_stat dropped 14,314 → 15,767; RetransSegs 0 → 1,125; echo ETIMEDOUT × 125",
    ),
    Explanation(
        limit="firewall",
        what="A rule between client and server that refuses, drops, or lets only so many connections or packets a "
        "second pass: nftables, iptables, a security group, a DDoS guard.",
        symptoms="Refused (ECONNREFUSED) or timed out from a certain number or rate on, while the server is idle and "
        "answers those that it has.",
        proof="The counter of the rule rises by as much as failed (`nft -a list ruleset`, `iptables-save -c`). "
        "Without root, or where the rule does not count, it is inferred: SYNs are sent again, nothing waits at the "
        "listener, and no other counter of drops moves.",
        look_alikes={
            "conntrack": "there the table is full, and its `drop` rises",
            "server_refused": "there the host answers with resets of its own (OutRsts), as nothing listens",
            "server_silent": "what reached the server waits in its sockets; a firewall lets nothing reach it",
            "link": "there the queue of the interface is full, or packets of open connections are lost as well",
            "ephemeral_ports": "EADDRNOTAVAIL from attempts that wait while their packets are dropped",
        },
        example='rate-limited: connect ETIMEDOUT × 1,108; TCPSynRetrans 0 → 2,152; rule of inet wslab in: "tcp flags & '
        'syn|ack syn limit rate over 200/second drop", counter 0 → 3,260',
    ),
    Explanation(
        limit="link",
        what="The way to the server: the rate of an interface or of a shaper, the queue in front of it, and packets "
        "that are lost.",
        symptoms="Answers get later the more is sent, while neither end is busy; with loss, stalls of 200 ms to "
        "seconds.",
        proof="The queueing discipline of the interface (`tc -s qdisc`) has a backlog, drops or overlimits while "
        "something was missed; RetransSegs rises.",
        look_alikes={
            "server_silent": "what was sent waits in the server's sockets; with a slow link it waits before them",
            "firewall": "a rule drops what is new or too fast; the queue of the link is short",
            "device_backlog": "there softnet_stat rises: the packets had arrived, and no CPU took them",
        },
        example="tbf on lo: qdisc overlimits 0 → 7,460, qdisc dropped 0 → 1,921, backlog up to 1,044,192 bytes",
    ),
    Explanation(
        limit="server_refused",
        what="Nothing listens on the port that is dialled.",
        symptoms="connect: ECONNREFUSED, `Connection refused`, at once and from the first attempt.",
        proof="ECONNREFUSED, no socket listens on the port (`ss -ltn`), and the host sent the resets itself (OutRsts).",
        look_alikes={
            "firewall": "a rule may refuse in its place: the server listens, and the host sends no resets",
            "server_died": "there it listened, and its process ended",
        },
        example="connect ECONNREFUSED × 100; sockets that listen on its port: 0; OutRsts 17,257,295 → 17,257,395",
    ),
    Explanation(
        limit="server_unreachable",
        what="No route leads to the server, or its host does not answer on its network.",
        symptoms="connect: EHOSTUNREACH, `No route to host`, or ENETUNREACH, `Network is unreachable`.",
        proof="The errno names it.",
        look_alikes={"firewall": "a rule can answer with the same errno; its counter then rises"},
        example="connect ENETUNREACH × 100",
    ),
    Explanation(
        limit="server_closed",
        what="The server ends connections by itself: an idle timeout, a limit of its own, a shutdown, an error. A "
        "proxy in front of it does so as well, often after 60 s.",
        symptoms="Connections that were open get a close frame, with code 1000, 1001, 1006, 1008, 1011 or 1013, or "
        "are reset.",
        proof="The close frame with its code and reason; where none came, it is inferred from the end of the stream.",
        look_alikes={
            "server_died": "its process ended",
            "server_protocol": "it answered wrongly before it closed",
            "tcp_mem": "there TCPAbortOnMemory rises: the kernel reset the connections",
        },
        example="closed with code 1001 (idle for too long); hold ESHUTDOWN × 200",
    ),
    Explanation(
        limit="server_cpu",
        what="A process of the server fills its core, or its control group has used up its CPU quota, while the "
        "clients have time to spare.",
        symptoms="Connections a second decay and answers get late; errors stay at zero. In a container with a quota, "
        "`top` shows little and nr_throttled in cpu.stat rises.",
        proof="Inferred: one server process at 90 % of a core or more, or throttled, in most of the time, while the "
        "swarm is not and no counter of a limit moved.",
        look_alikes={
            "generator": "there the swarm is busy or late, and the server has time to spare",
            "machine_cpu": "there the whole machine has no idle CPU",
            "accept_queue": "a busy server accepts too slowly; a full core is then the cause",
            "server_silent": "there the server is idle",
            "tcp_mem": "messages that a busy server does not read fill the buffers",
        },
        example="158 of 800 messages a second answered; busiest swarm process at most 9% of a core, busiest server "
        "process at most 6% of a core, server throttled in up to 100% of the periods of its CPU quota of 0.05",
    ),
    Explanation(
        limit="machine_cpu",
        what="Neither end alone, but both together have used up the CPUs of the machine.",
        symptoms="Everything gets slower at once, the shell included; load average far above the number of CPUs.",
        proof="Inferred: no idle CPU in most of the time, and neither end takes most of it.",
        look_alikes={
            "server_cpu": "there other CPUs are idle, and one process of the server fills its own",
            "generator": "there the swarm takes most of the CPU, and the server waits",
        },
        example="38,568 of 400,000 messages a second answered; no idle CPU",
    ),
    Explanation(
        limit="generator",
        what="The client that makes the load is slower than the server: what was measured is the test and not the "
        "server.",
        symptoms="The server is nearly idle, and still no more connections or messages come; latency grows at the "
        "client alone.",
        proof="Inferred: the swarm is busy, throttled or behind its schedule, the server has time to spare, and no "
        "counter of a limit moved. A swarm process that died is proof by its exit status.",
        look_alikes={
            "server_cpu": "there the server is busy, and the swarm keeps its schedule",
            "machine_cpu": "there both together fill the machine",
            "link": "there the queue of the interface is full",
        },
        example="1,864 of 10,000 messages a second answered; busiest swarm process at most 6% of a core, busiest "
        "server process at most 4% of a core, swarm throttled in up to 100% of the periods of its CPU quota of 0.05",
    ),
    Explanation(
        limit="server_died",
        title="a process of the server ended by itself",
        reads="the exit status of the process, logs/server.log",
        remedy="read the log of the server: the process itself failed",
        what="A server process ended unexpectedly, and not because memory ran out.",
        symptoms="Its connections are reset (ECONNRESET) all at once; further ones are refused, or another process "
        "takes them.",
        proof="The exit code or signal of the process.",
        look_alikes={
            "memory_machine": "signal 9, and oom_kill in /proc/vmstat rose",
            "memory_cgroup": "signal 9, and oom_kill in /proc/vmstat rose with memory left on the machine",
            "process_limit": "the process could not be started at all",
            "server_closed": "the process lives on",
            "server_refused": "nothing listened from the beginning",
        },
        example="process_exited: server pid 29208 by signal 9; vmstat oom_kill 3 → 3",
    ),
    Explanation(
        limit="server_silent",
        title="a server that is idle and does not answer",
        reads="/proc/PID/stat, the receive queues of its sockets (sock_diag), its accept queue",
        remedy="look at the server itself: it is stopped, blocked, or never answers",
        what="What is sent reaches the server, and it does nothing with it: it is stopped, waits for a lock or for "
        "another service, or has forgotten to read.",
        symptoms="Connections are open and nothing comes back; `ss -tn` shows Recv-Q above 0 at the server.",
        proof="Inferred: the server is idle, bytes or connections wait in its sockets, and no counter of drops moved.",
        look_alikes={
            "accept_queue": "there the server accepts, only too slowly or too few at once",
            "server_cpu": "there it is busy",
            "firewall": "there nothing reaches the server's sockets",
            "link": "there it waits in front of the interface",
        },
        example="echo ETIMEDOUT × 900; busiest server process at 0% of a core",
    ),
    Explanation(
        limit="server_protocol",
        title="a server that answers wrongly",
        reads="the bytes that came back; logs of the run quote the first of them",
        remedy="a server that completes the upgrade and echoes each message once and unchanged",
        what="The server does not speak WebSocket there, refuses the upgrade, or does not echo each message once and "
        "unchanged.",
        symptoms="A status other than 101, such as 400, 403, 404 or 426; `Unexpected server response`; messages "
        "that are changed, doubled or unasked.",
        proof="What the server sent.",
        look_alikes={"server_closed": "it closes in good order, with a code"},
        example="upgrade EPROTO × 112; no upgrade: GET / HTTP/1.1",
    ),
    Explanation(
        limit="host_lost",
        title="a host of a run over several that went away",
        reads="the calls to the relay on that host, which Dask carries",
        remedy="look on that host why its Dask worker, or the network to it, went away",
        what="In a run over several hosts one of them does not answer any more: its Dask worker or its supervisor has "
        "ended, or the network to it is cut. What it held is counted as lost; the other hosts drain.",
        symptoms="The run ends early, and as many connections are lost as that host held.",
        proof="A call to the relay on that host fails, or has no answer for five seconds.",
        look_alikes={
            "server_died": "a process of the server ended, and its host still answers",
            "generator": "a process of the swarm ended, and its host still answers",
        },
        example="host h2 is lost: its Dask worker is gone: Unable to contact Actor's worker; it held 1,000 connections",
    ),
    Explanation(
        limit="unknown",
        title="no known limit explains what was missed",
        reads="everything that was recorded; the finding lists what was ruled out",
        remedy="read the logs of the run",
        what="Something was missed, and no rule finds a limit that explains it. That is said rather than guessed.",
        symptoms="Any.",
        proof="None: the finding quotes what failed, and which counters did not move.",
    ),
)

EXPLANATIONS: dict[str, Explanation] = {row.limit: row for row in _ROWS}
