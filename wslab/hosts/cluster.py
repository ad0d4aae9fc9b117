"""The Dask cluster that a stage runs over: its workers, and the way to a relay on each.

The only module that imports `distributed`. A relay is a Dask actor on one named worker; commands and news are calls of
its methods, which go through the scheduler, so that the caller need not reach the workers. Certificates and all else of
the connection are what Dask is configured with, or the caller's own client has.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from wslab.core.host import Host
from wslab.core.quantities import BadInput
from wslab.hosts.fleet import HostGone
from wslab.hosts.placing import Candidate
from wslab.hosts.relay import Relay, look
from wslab.lab.tables import Table, bytes_text

# How the address of a scheduler begins whose connections are encrypted.
TLS = "tls://"
MISSING = "the package distributed, which is not installed: pip install 'wslab[hosts]'"
# One for the server and two for the swarm.
WORKERS = 3
# One thread runs the commands of a relay while the other looks.
WORKER_THREADS = 2
CONNECT_SECONDS = 5.0
# Where no folder keeps the event loops yet, each host compiles them.
LOOK_SECONDS = 120.0
ACTOR_SECONDS = 30.0
# A host that has not answered for so long is lost.
SILENCE_SECONDS = 5.0
POLL_SECONDS = 0.1
CLOCK_READINGS = 7


def open_cluster(where: Any = "", workers: int = WORKERS, *, say: Callable[[str], None]) -> Cluster | None:
    """Open a cluster for several stages; `close()` ends it, and so does the end of this process.

    Args:
        where: as in `Cluster`; empty for workers of this machine's own, of which the first has the scheduler beside it.
        workers: how many of these.
        say: called with one line where the package `distributed` is missing.

    Returns:
        The cluster, for `run_over`; None where the package is missing.

    Raises:
        BadInput: no scheduler answers there.
    """
    if importlib.util.find_spec("distributed") is None:
        say(f"A stage over several hosts needs {MISSING}")
        return None
    return Cluster(where, workers)


def opened(where: Any) -> AbstractContextManager[Cluster]:
    """Return a cluster for as long as the context lasts: one that is open already stays open.

    Raises:
        BadInput: as for `Cluster`.
    """
    return nullcontext(where) if isinstance(where, Cluster) else Cluster(where)


def _check_certificates(where: str) -> None:
    """Refuse a cluster with TLS for which Dask is configured with no certificates that can be used.

    Raises:
        BadInput: one line says why.
    """
    from distributed import Security

    try:
        context = Security().get_connection_args("client").get("ssl_context")
    except (OSError, ValueError) as problem:
        raise BadInput(f"cluster={where}: its certificates cannot be used: {problem}") from None
    if context is None:
        raise BadInput(
            f"cluster={where}: it needs certificates, and Dask is configured with none: distributed.comm.tls"
        )


def _workers_here(count: int) -> Any:
    """Start a scheduler in this process and so many workers, each a process of its own that ends with this one."""
    from distributed import Nanny, Scheduler, SpecCluster

    common = {"host": "127.0.0.1", "dashboard": False}
    options = {**common, "nthreads": WORKER_THREADS, "silence_logs": logging.CRITICAL}
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {**common, "dashboard_address": "127.0.0.1:0"}},
        workers={f"host-{number}": {"cls": Nanny, "options": options} for number in range(count)},
        silence_logs=logging.CRITICAL,
    )


class Cluster:
    """A connection to a cluster, for as long as the context lasts.

    Args:
        where: address of the scheduler such as `tcp://10.0.0.1:8786`, or a `distributed.Client`, which stays open;
            empty for workers of this machine's own, which end with the context.
        workers: how many of these.

    Raises:
        BadInput: `distributed` is not installed, or no scheduler answers there.
    """

    def __init__(self, where: Any, workers: int = WORKERS) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise BadInput(f"cluster={where} needs {MISSING}") from None
        self._own = not isinstance(where, Client)
        self._loud: list[tuple[logging.Logger, int]] = []
        self._here: Any = None
        if not self._own:
            self.client = where
            return
        if where and (not isinstance(where, str) or "://" not in where):
            raise BadInput(f"cluster={where} is no address of a scheduler, such as tcp://10.0.0.1:8786")
        if where.startswith(TLS):
            _check_certificates(where)
        # What it logs of a scheduler that is gone is said by the run, in its own words.
        for name in ("distributed", "distributed.client", "distributed.core", "distributed.comm"):
            logger = logging.getLogger(name)
            self._loud.append((logger, logger.level))
            logger.setLevel(logging.CRITICAL)
        try:
            self._here = None if where else _workers_here(workers)
            self.client = Client(self._here or where, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, ImportError) as problem:
            self._be_loud()
            silent = f"no scheduler answers there{', or none that takes these certificates' * where.startswith(TLS)}"
            why = str(problem).splitlines()[0] if isinstance(problem, ValueError) else silent
            raise BadInput(f"cluster={where}: {why}") from None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the workers of this machine's own; does nothing the second time."""
        if self._own:
            self.client.close(timeout=2)
        if self._here is not None:
            self._here.close(timeout=CONNECT_SECONDS)
        self._be_loud()

    def candidates(self) -> dict[str, Candidate]:
        """Return the workers by name, without what only a look at their hosts can tell."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        found = [
            Candidate(
                name=str(about["name"]),
                worker=address,
                ip=urlsplit(address).hostname or "",
                folder=about["local_directory"],
                resources=tuple(name for name, amount in (about.get("resources") or {}).items() if amount > 0),
                host=Host(memory_total_bytes=int(about.get("memory_limit") or 0)),
            )
            for address, about in workers.items()
        ]
        return {one.name: one for one in sorted(found, key=lambda one: one.name)}

    def __repr__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        rows = [
            (one.name, one.ip, bytes_text(one.host.memory_total_bytes), ", ".join(one.resources), one.worker)
            for one in self.candidates().values()
        ]
        return Table(headings=("worker", "address", "memory", "resources", "in the cluster"), rows=rows, numbers=(2,))

    def look(self, candidates: Sequence[Candidate], server: str) -> list[dict[str, Any]]:
        """Return what `wslab.hosts.relay.look` says on each host.

        Args:
            candidates: the hosts.
            server: address of the server's host.

        Raises:
            BadInput: one of them cannot tell; the text names it.
        """
        asked = [
            self.client.submit(look, server, workers=[one.worker], allow_other_workers=False, pure=False, priority=1)
            for one in candidates
        ]
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + LOOK_SECONDS
        for one, future in zip(candidates, asked, strict=True):
            try:
                found.append(future.result(timeout=max(0.1, deadline - time.monotonic())))
            except Exception as problem:  # It is what happened in another process, of any type.
                self.client.cancel(asked)
                why = " ".join(str(problem).split()) or type(problem).__name__
                raise BadInput(f"host {one.name} cannot run a stage: {why}") from None
        return found

    def link(self, at: Candidate, run_id: str) -> DaskLink:
        """Start a relay on a host, and return the way to it.

        Raises:
            OSError: it does not start.
        """
        future = self.client.submit(
            Relay, at.folder, run_id, actor=True, workers=[at.worker], allow_other_workers=False, pure=False
        )
        with self.client.as_current():  # An actor belongs to the client that is current when it is first used.
            return DaskLink(at.name, future)

    def _be_loud(self) -> None:
        for logger, level in self._loud:
            logger.setLevel(level)


def moved(least: float, most: float, offset: float, uncertainty: float) -> float:
    """Return by how much a clock has moved at least: 0 where its offset may be what it was.

    Args:
        least: the least offset that it can have now, in seconds.
        most: the largest.
        offset: the offset that was measured before.
        uncertainty: how far that may be off.
    """
    return max(0.0, least - (offset + uncertainty)) + min(0.0, most - (offset - uncertainty))


class DaskLink:
    """The way to the relay on one host; see `wslab.hosts.fleet.Link`.

    Args:
        name: name of the host.
        future: the actor.

    Raises:
        OSError: the actor does not start.
    """

    def __init__(self, name: str, future: Any) -> None:
        self.name, self._future = name, future
        try:
            self._actor = future.result(timeout=ACTOR_SECONDS)
            self.offset_seconds, self.uncertainty_seconds = self._measure()
            self.moved_seconds = 0.0
        except Exception as problem:
            raise OSError(f"host {name} cannot start a supervisor: {' '.join(str(problem).split())}") from problem
        self._sent: list[Any] = []
        self._asked: Any = None
        self._asked_at = 0.0
        self._stopping: Any = None

    def command(self, name: str, fields: Mapping[str, Any], at: float | None = None) -> None:
        """Send a command, to take effect at a time of the caller's monotonic clock; does not wait."""
        there = None if at is None else at + self.offset_seconds
        try:
            # Kept, as nobody else holds what is under way; that it failed is seen by the next poll.
            self._sent = [one for one in self._sent if not one.done()]
            self._sent.append(self._actor.command(name, dict(fields), there))
        except RuntimeError:
            pass  # The worker is known to be lost; the next poll says so.

    def poll(self) -> dict[str, Any] | None:
        """Return what is new; None when nothing has arrived."""
        now = time.monotonic()
        try:
            if self._asked is None:
                if now - self._asked_at < POLL_SECONDS:
                    return None
                self._asked, self._asked_at = self._actor.poll(), now
            if not self._asked.done():
                if now - self._asked_at > SILENCE_SECONDS:
                    raise HostGone(f"it has not answered for {SILENCE_SECONDS:.0f} s")
                return None
            asked, self._asked = self._asked, None
            news: dict[str, Any] = asked.result()
        except HostGone:
            raise
        except Exception as problem:  # Whatever Dask says of a worker that is gone.
            raise HostGone(f"its Dask worker is gone: {' '.join(str(problem).split())}") from problem
        # The host has read its clock between the question and now.
        least, most = news["clock"] - time.monotonic(), news["clock"] - self._asked_at
        self.moved_seconds = moved(least, most, self.offset_seconds, self.uncertainty_seconds)
        return news

    def stop(self) -> None:
        """Ask for the end of everything on that host; does not wait."""
        try:
            self._stopping = self._actor.stop()
        except RuntimeError:
            self._stopping = None

    def stopped(self, seconds: float) -> dict[str, Any]:
        """Return what was new at the end; empty when the host does not say within so many seconds."""
        try:
            news: dict[str, Any] = self._stopping.result(timeout=seconds) if self._stopping is not None else {}
        except Exception:  # A host that is lost now has nothing to say; its lease stops what it runs.
            return {}
        finally:
            self._future.release()
        return news

    def _measure(self) -> tuple[float, float]:
        """Return the offset of the host's monotonic clock and half the shortest round trip, in seconds."""
        readings = []
        for _ in range(CLOCK_READINGS):
            before = time.monotonic()
            there = self._actor.clock().result(timeout=ACTOR_SECONDS)
            after = time.monotonic()
            readings.append((after - before, there - (before + after) / 2))
        shortest, offset = min(readings)
        return offset, shortest / 2
