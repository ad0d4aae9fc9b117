"""One stage over the hosts of a Dask cluster: `run_over`.

The run is conducted, recorded and judged like a run on one host; see `wslab.hosts.fleet` for what becomes one of
several, and `wslab.hosts.merging` for how a limit is named with its host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wslab.core.evidence import Evidence
from wslab.core.host import Host
from wslab.core.knee import AUTO
from wslab.core.quantities import BadInput
from wslab.core.records import ABORTED, BROKE, CRASHED
from wslab.core.servers import SERVER_KINDS
from wslab.core.stage import BROADCAST, Stage
from wslab.core.target import check_target
from wslab.hosts.cluster import Cluster, opened
from wslab.hosts.fleet import HostsFleet, OneHost
from wslab.hosts.merging import find
from wslab.hosts.placing import Placing, choose, divide, refusal, with_addresses
from wslab.lab import store
from wslab.lab.experiment import Experiment, check_alone
from wslab.lab.place import Place
from wslab.lab.running import Running
from wslab.lab.verdict import Verdict, judge, reached

if TYPE_CHECKING:
    from wslab.lab.runs import Run


def run_over(
    cluster: Any,
    stage: Stage | None = None,
    *,
    server_on: str = "",
    swarm_on: str | Sequence[str] = (),
    swarm_addresses: str | Sequence[str] = (),
    on_event: Callable[[dict[str, Any]], None] | None = None,
    operate_target: bool = False,
    **parameters: Any,
) -> Run:
    """Run one stage over several hosts and return what was recorded: `run_over("tcp://10.0.0.1:8786")`.

    Args:
        cluster: address of a Dask scheduler, a `distributed.Client`, or what `open_cluster` returned; the last two stay
            open. Empty for workers of this machine's own.
        stage: what is asked for; or give the parameters themselves, which override those of a stage.
        server_on: name of the worker on whose host the server runs, or `resource:NAME` for one that was started with
            `--resources NAME=1`; empty for the one with the most memory.
        swarm_on: names of those that run the swarm, or `resource:NAME` for all that offer it; empty for all others. One
            in both runs both ends.
        swarm_addresses: addresses that the swarm dials from, each on the host that has it; empty for those that a host
            has in the network that leads to the server.
        on_event: called with every event and sample as it comes.
        operate_target: whether the caller says that hosts outside loopback are theirs to load.
        **parameters: those of a stage.

    Returns:
        The run, saved, with one of the outcomes `held`, `broke`, `aborted` and `crashed`. Its folder has the records of
        each host in `hosts/NAME/`.

    Raises:
        BadInput: a parameter, the data folder or the cluster cannot be used, or a host ends the stage.
    """
    stage = Stage.of(**{**(stage.as_dict() if stage else {}), **parameters})
    check_runs_over_hosts(stage)
    data_dir = store.data_folder(stage.data_dir)
    store.check_writable(data_dir)
    beside = check_alone(stage)
    with opened(cluster) as connected:
        placing = place(connected, stage, server_on, swarm_on, swarm_addresses)
        check_target(f"ws://{_bracketed(placing.server.ip)}:1", operate_target)
        refused = refusal(placing)
        if refused:
            raise BadInput(refused)
        experiment = OverHosts(stage, placing, connected, data_dir, on_event=on_event, beside=beside)
        experiment.run()

    from wslab.lab.runs import Run  # It imports pandas.

    return Run.load(experiment.run_dir) if experiment.saved else Run(experiment.run_dir, experiment.manifest)


def check_runs_over_hosts(stage: Stage) -> None:
    """Refuse what a stage over hosts cannot do.

    Raises:
        BadInput: one line says what.
    """
    kinds = [name for name, kind in SERVER_KINDS.items() if not kind.command]
    if stage.server not in kinds:
        raise BadInput(f"server={stage.server}: over hosts it is one of {', '.join(kinds)}")
    if stage.message_rate == AUTO:
        raise BadInput("message_rate=auto is for one host: a climb in messages has one clock")
    if stage.workload == BROADCAST:
        raise BadInput("workload=broadcast is for one host: the time until the last has it has one clock")
    if stage.tune:
        raise BadInput("tune=True is for one host: run `wslab tune --apply` on each instead")


def place(
    cluster: Cluster,
    stage: Stage,
    server_on: str,
    swarm_on: str | Sequence[str],
    swarm_addresses: str | Sequence[str] = (),
) -> Placing:
    """Choose hosts, look at them, and divide the stage over them.

    Raises:
        BadInput: there are too few, one is unknown, one cannot run a stage, or none of the swarm has an address.
    """
    known = cluster.candidates()
    server, swarm = choose(known, server_on, swarm_on)
    names = list(dict.fromkeys([server, *swarm]))
    looks = cluster.look([known[name] for name in names], known[server].ip)
    for name, seen in zip(names, looks, strict=True):
        if seen["beside"] and not stage.beside:
            raise BadInput(
                f"host {name}: the run {seen['beside'][0]} is in progress there; beside=True goes on all the same"
            )
        known[name] = replace(
            known[name],
            host=Host.from_record(seen["host"]),
            node=seen["node"],
            addresses=tuple(seen["towards"]),
            own=tuple(seen["own"]),
        )
    return divide(stage, known[server], with_addresses([known[name] for name in swarm], swarm_addresses))


class OverHosts(Experiment):
    """One run over hosts in progress; use `run_over`.

    Args:
        stage: what is asked for.
        placing: where it runs.
        cluster: the way to the hosts.
        data_dir: the data folder.
        on_event: called with every event.
        beside: ids of the runs that were in progress when this one began.
    """

    def __init__(
        self,
        stage: Stage,
        placing: Placing,
        cluster: Cluster,
        data_dir: Path,
        *,
        on_event: Callable[[dict[str, Any]], None] | None,
        beside: Sequence[str] = (),
    ) -> None:
        here = Place(host=placing.server.host, plan=placing.plan)
        super().__init__(stage, here, data_dir, on_event=on_event, running=Running(), own={}, beside=beside)
        self._placing, self._cluster = placing, cluster
        self._hosts: list[OneHost] = []
        self._found_on: list[str] = []

    def _fleet(self) -> HostsFleet:
        name, run_id = self._placing.server.name, self.run_dir.name
        server = self._cluster.link(self._placing.server, run_id)
        swarm = [self._cluster.link(share.at, run_id) for share in self._placing.shares]
        fleet = HostsFleet(self.run_dir, self._placing, server, swarm)
        self._hosts = fleet.hosts
        self.note("hosts", [self._about(host) for host in fleet.hosts])
        self.note("server_on", name)
        store.write_manifest(self.run_dir, self.manifest)
        return fleet

    def _about(self, host: OneHost) -> dict[str, Any]:
        """Return what the manifest says of a host."""
        share = host.share
        at = share.at if share else self._placing.server
        return {
            "name": at.name,
            "role": host.role,
            "node": at.node,
            "folder": str(host.folder.relative_to(self.run_dir)),
            "connections": share.plan.connections if share else 0,
            "ramp_rate": share.ramp_rate if share else None,
            "plan": share.plan.as_dict() if share else self._placing.server_plan.as_dict(),
            "clock_offset_seconds": round(host.link.offset_seconds, 6),
            "clock_uncertainty_seconds": round(host.link.uncertainty_seconds, 6),
            "limits": at.host.as_dict(),
        }

    def _judge(self, evidence: Evidence, crashed: str, aborted: str) -> Verdict:
        """Judge the whole, and name each limit with the host on which it bound."""
        verdict = judge(evidence, crashed=crashed, aborted=aborted)
        found = find(evidence, self._placing.server.name, dict(map(self._part, self._hosts[1:])))
        if verdict.outcome in (ABORTED, CRASHED):
            found = [(name, one) for name, one in found if one.limit != "unknown"]
        self._found_on = [name for name, _ in found]
        reason = verdict.reason
        if verdict.outcome == BROKE:
            named = ", ".join(dict.fromkeys(f"{one.limit} on {name}" for name, one in found))
            reason = f"{named}: {reached(evidence)}" if named else reached(evidence)
        return Verdict(outcome=verdict.outcome, reason=reason, findings=tuple(one for _, one in found))

    def _rows(self, verdict: Verdict) -> list[dict[str, Any]]:
        rows = super()._rows(verdict)
        return [row | {"host": name} for row, name in zip(rows, self._found_on, strict=True)]

    def _part(self, host: OneHost) -> tuple[str, Evidence]:
        """Return the name of a host of the swarm and its own records."""
        assert host.share is not None
        asked = self.stage.as_recorded() | {"connections": host.share.plan.connections}
        asked["ramp_rate"] = host.share.ramp_rate or "max"
        return host.link.name, Evidence(
            stage=asked,
            plan=host.share.plan,
            host=host.share.at.host,
            samples=store.read_samples(host.folder),
            events=store.read_events(host.folder),
        )


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
