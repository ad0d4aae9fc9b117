"""The columns of a sample for what lies between swarm and server: the link, and what waits in the sockets of both.

1. What is read of the server is read from outside, and only where it runs on this host, in this network namespace.
2. A column that was not read is None: without a server yet, without a queueing discipline, or among too many sockets of
   others (see `wslab.machine.sockets.worth_sampling`).
"""

from __future__ import annotations

from wslab.machine.link import interface_towards, is_local, read_queue
from wslab.machine.procfs import read_sockstat
from wslab.machine.sockets import read_listeners, sample_server, sample_swarm, worth_sampling

TYPE_CHECKING = False
if TYPE_CHECKING:
    Values = dict[str, int | float | str | None]

_LINK = ("link_queue", "link_backlog_bytes", "link_drops_total", "link_overlimits_total")
_SOCKETS = (
    *("server_listeners", "server_accept_queue", "server_sockets_sampled", "server_sockets_waiting"),
    *("server_receive_queue_bytes", "server_send_queue_bytes", "swarm_sockets_sampled", "swarm_send_queue_bytes"),
    "link_roundtrip_seconds_min",
)


class Between:
    """Reads the columns, for one server.

    Args:
        destination: its host.
    """

    def __init__(self, destination: str) -> None:
        self._interface = interface_towards(destination)
        self._here = is_local(destination)

    def read(self, port: int, connections: int) -> Values:
        """Return the columns as they are now.

        Args:
            port: port of the server, 0 while it is not known.
            connections: connections that the swarm has open.
        """
        return self._link() | (self._sockets(port, connections) if port else dict.fromkeys(_SOCKETS))

    def _link(self) -> Values:
        queue = None if self._interface is None else read_queue(self._interface)
        if queue is None:
            return dict.fromkeys(_LINK)
        return {
            "link_queue": queue.name,
            "link_backlog_bytes": queue.backlog_bytes,
            "link_drops_total": queue.drops,
            "link_overlimits_total": queue.overlimits,
        }

    def _sockets(self, port: int, connections: int) -> Values:
        values: Values = dict.fromkeys(_SOCKETS)
        if self._here and (listeners := read_listeners(port)):
            values |= {"server_listeners": listeners.sockets, "server_accept_queue": listeners.waiting}
        everybody = (read_sockstat() or {}).get("TCP", {}).get("alloc", 0)
        if not connections or not worth_sampling(connections, everybody):
            return values
        if self._here and (server := sample_server(port)):
            values |= {
                "server_sockets_sampled": server.sockets,
                "server_sockets_waiting": server.waiting,
                "server_receive_queue_bytes": server.unread_bytes,
                "server_send_queue_bytes": server.unacknowledged_bytes,
            }
        if swarm := sample_swarm(port):
            values |= {
                "swarm_sockets_sampled": swarm.sockets,
                "swarm_send_queue_bytes": swarm.unacknowledged_bytes,
                "link_roundtrip_seconds_min": swarm.roundtrip_seconds,
            }
        return values
