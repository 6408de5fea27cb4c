"""The controller's link to the head's GCS: nodes, demand, drains, and what others put there.

A client of the GCS is enough: no driver is started, and Ray's worker is not loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.control.demand import Bundle, bundles_of, ours, refuse_unlike
from cluster.control.leases import Lease, read_leases
from cluster.control.occupants import LivingActor, LivingJob, Occupancy
from cluster.control.snapshot import Node
from cluster.vm.head import connect_to_gcs, drain_once
from cluster.vm.report import VmReport, forget, read_reports
from ironcliw.errors import ClusterError

_RPC_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class View:
    """What the GCS knows at a moment.

    Attributes:
        nodes: Living workers that have a machine's name.
        demand: All that is demanded, ours among it.
        reports: Of the agents.
        unreadable: Why the reports of other machines cannot be read.
        leases: On workers, old ones too.
        round: Grows with every round of the autoscaler.
    """

    nodes: tuple[Node, ...]
    demand: tuple[Bundle, ...]
    reports: tuple[VmReport, ...]
    unreadable: Mapping[str, str]
    leases: tuple[Lease, ...]
    round: int

    @property
    def demanded(self) -> int:
        """How many workers are demanded in our name."""
        return sum(bundle.count for bundle in self.demand if bundle.is_ours)


class GcsLink:
    """Asks the GCS; used by one thread at a time, and made anew after an error.

    Args:
        address: Of the GCS, `host:port`.
        head_id: Instance id of the head, which is no worker.
        connect: Makes a client; raises OSError at once where nothing listens.

    Every method raises `ray.exceptions.RayError` or `OSError` when the head cannot be reached.
    """

    def __init__(
        self, address: str, head_id: str, connect: Callable[[str], Any] = connect_to_gcs
    ) -> None:
        self._address = address
        self._head_id = head_id
        self._connect = connect
        self._client: Any = None

    def look(self) -> View:
        """All at once."""
        view: View = self._call(self._look)
        return view

    def occupancy(self) -> Occupancy:
        """Who uses the cluster."""
        occupancy: Occupancy = self._call(_occupancy)
        return occupancy

    def drain(self, node_id: str, message: str, seconds: float) -> str:
        """Drain a node, unless it is draining; returns what the GCS said.

        Raises:
            ClusterError: It refused.
        """
        accepted, answer = self._call(lambda gcs: drain_once(gcs, node_id, message, seconds))
        if not accepted:
            raise ClusterError(f"the drain of node {node_id} was refused: {answer}")
        return str(answer)

    def demand(self, workers: int) -> None:
        """Have so many workers, beside what others have asked for.

        Ray keeps one list for all who ask: it is read here, and written at once with our part
        changed. What somebody else writes in between, within milliseconds, is lost: Ray has no
        write that depends on a read.

        Raises:
            ClusterError: Somebody's demand cannot be said again in the words that Ray takes.
        """
        self._call(lambda gcs: _demand(gcs, workers))

    def forget(self, name: str) -> None:
        """Drop the report of a machine that is gone."""
        self._call(lambda gcs: forget(gcs, name))

    def _look(self, gcs: Any) -> View:
        from ray.core.generated import autoscaler_pb2

        reply = _status(gcs)
        state = reply.cluster_resource_state
        draining = autoscaler_pb2.NodeStatus.DRAINING  # type: ignore[attr-defined]
        dead = autoscaler_pb2.NodeStatus.DEAD  # type: ignore[attr-defined]
        nodes = tuple(
            Node(
                one.node_id.hex(),
                one.instance_id,
                one.status == draining,
                one.idle_duration_ms / 1000,
            )
            for one in state.node_states
            if one.status != dead and one.instance_id not in ("", self._head_id)
        )
        found = read_reports(gcs)
        return View(
            nodes=nodes,
            demand=bundles_of(state.cluster_resource_constraints),
            reports=found.reports,
            unreadable=found.unreadable,
            leases=tuple(read_leases(gcs)),
            # not autoscaler_state_version: that one stands still while no machine comes or goes
            round=reply.autoscaling_state.last_seen_cluster_resource_state_version,
        )

    def _call(self, function: Callable[[Any], Any]) -> Any:
        from ray.exceptions import RayError

        if self._client is None:
            self._client = self._connect(self._address)
        try:
            return function(self._client)
        except (RayError, OSError):
            # the head may come back as another one
            self._client = None
            raise


def _status(gcs: Any) -> Any:
    from ray.core.generated import autoscaler_pb2

    reply = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]
    reply.ParseFromString(gcs.get_cluster_status(timeout_s=_RPC_SECONDS))
    return reply


def _demand(gcs: Any, workers: int) -> None:
    # read anew: what a view of some seconds ago lacks would be taken away
    found = bundles_of(_status(gcs).cluster_resource_state.cluster_resource_constraints)
    wanted = [bundle for bundle in found if not bundle.is_ours]
    refuse_unlike(wanted)
    if workers:
        wanted.append(ours(workers))
    gcs.request_cluster_resource_constraint(
        [dict(bundle.resources) for bundle in wanted],
        [dict(bundle.selector) for bundle in wanted],
        [bundle.count for bundle in wanted],
        timeout_s=_RPC_SECONDS,
    )


def _occupancy(gcs: Any) -> Occupancy:
    # a call that the client has for event loops alone
    actors = asyncio.run(_living_actors(gcs))
    jobs = gcs.get_all_job_info(timeout=_RPC_SECONDS)
    return Occupancy(
        actors=[
            LivingActor(one.address.node_id.hex(), one.job_id.hex(), one.name)
            for one in actors.values()
        ],
        jobs=[
            LivingJob(one.job_id.hex(), one.is_running_tasks, dict(one.config.metadata))
            for one in jobs.values()
            if not one.is_dead
        ],
    )


async def _living_actors(gcs: Any) -> Any:
    return await gcs.async_get_all_actor_info(actor_state_name="ALIVE", timeout=_RPC_SECONDS)
