"""A stand-in of the head's GCS, as `cluster.control.gcs_link` sees it by Ray's own messages."""

from __future__ import annotations

import json
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from ray.core.generated import autoscaler_pb2, common_pb2, gcs_pb2
from ray.exceptions import RpcError

from cluster.config import HEAD_INSTANCE_ID
from cluster.vm.head import REPORT_NAMESPACE

STATES = autoscaler_pb2.NodeStatus
OPERATORS = common_pb2.LabelSelectorOperator


class Immediate(Executor):
    """Runs what is submitted at once, in the caller's thread."""

    def __init__(self, *_: object) -> None:
        self.is_shut_down = False

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:  # noqa: BLE001  (the future carries it to who asks)
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.is_shut_down = True


class Later(Immediate):
    """Runs nothing: the test answers."""

    def __init__(self) -> None:
        super().__init__()
        self.futures: list[Future[Any]] = []

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


def constraint_of(words: str) -> dict[str, Any]:
    """What Ray's GCS makes of a selector's text, as `test_demand` shows of the real one."""
    operator, words = ("NOT_IN", words[1:]) if words.startswith("!") else ("IN", words)
    inner = words.removeprefix("in(").removesuffix(")")
    values = inner.split(",") if words == f"in({inner})" else [words]
    return {"operator": OPERATORS.Value(f"LABEL_OPERATOR_{operator}"), "label_values": values}


@dataclass
class FakeHead:
    """The calls that the controller makes."""

    is_up: bool = True
    nodes: dict[str, Any] = field(default_factory=dict)
    """Instance id -> (status, milliseconds without work)."""
    demand: list[tuple[dict[str, float], dict[str, str], int]] = field(default_factory=list)
    alternatives: list[dict[str, str]] = field(default_factory=list)
    """Selectors beside the first one, of each bundle that has one."""
    drains: list[tuple[str, str, int]] = field(default_factory=list)
    refuses: bool = False
    round: int = 1
    stored: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)
    connections: int = 0
    actors: list[tuple[str, str, str]] = field(default_factory=list)
    """Instance id, job, name of each living actor."""
    jobs: dict[str, tuple[bool, bool, dict[str, str]]] = field(default_factory=dict)
    """Job -> (it runs tasks, it has ended, its metadata)."""

    def connect(self, address: str) -> FakeHead:
        if not self.is_up:
            raise ConnectionRefusedError(111, "nothing listens")
        self.connections += 1
        return self

    def join(self, name: str, status: str = "RUNNING", idle_ms: int = 0) -> None:
        self.nodes[name] = (STATES.Value(status), idle_ms)

    def report(self, name: str, *events: tuple[float, str], egress: int = 0) -> None:
        """Puts an agent's report there."""
        document = {
            "format_version": 1,
            "at": 0,
            "node_id": "",
            "boot": "boot",
            "egress_bytes": egress,
            "events": [{"at": at, "kind": kind, "message": ""} for at, kind in events],
        }
        self.stored[REPORT_NAMESPACE, name.encode()] = json.dumps(document).encode()

    def _answer(self) -> None:
        if not self.is_up:
            raise RpcError("the head is gone")

    def get_cluster_status(self, timeout_s: float) -> bytes:
        self._answer()
        reply = autoscaler_pb2.GetClusterStatusReply()
        state = reply.cluster_resource_state
        # as Ray does: this grows with each look of the autoscaler, its own version with its changes
        reply.autoscaling_state.last_seen_cluster_resource_state_version = self.round
        reply.autoscaling_state.autoscaler_state_version = 2
        nodes = {HEAD_INSTANCE_ID: (STATES.RUNNING, 0), **self.nodes}
        for name, (status, idle_ms) in nodes.items():
            state.node_states.add(
                node_id=name.encode(), instance_id=name, status=status, idle_duration_ms=idle_ms
            )
        constraint = state.cluster_resource_constraints.add()
        for resources, selector, count in self.demand:
            one = constraint.resource_requests.add(count=count)
            one.request.resources_bundle.update(resources)
            for words in [selector, *self.alternatives] if selector else ():
                terms = one.request.label_selectors.add().label_constraints
                for key, value in words.items():
                    terms.add(label_key=key, **constraint_of(value))
        return bytes(reply.SerializeToString())

    async def async_get_all_actor_info(self, **given: Any) -> Any:
        self._answer()
        assert given == {"actor_state_name": "ALIVE", "timeout": 4.0}
        found = {}
        for number, (name, job, actor) in enumerate(self.actors):
            row = gcs_pb2.ActorTableData(name=actor, job_id=job.encode())
            row.address.node_id = name.encode()
            found[number] = row
        return found

    def get_all_job_info(self, timeout: float) -> Any:
        self._answer()
        found = {}
        for job, (is_running_tasks, is_dead, metadata) in self.jobs.items():
            row = gcs_pb2.JobTableData(
                job_id=job.encode(), is_running_tasks=is_running_tasks, is_dead=is_dead
            )
            row.config.metadata.update(metadata)
            found[job] = row
        return found

    def request_cluster_resource_constraint(
        self, bundles: Any, selectors: Any, counts: Any, timeout_s: float
    ) -> None:
        self._answer()
        self.demand = list(zip(bundles, selectors, counts, strict=True))

    def get_draining_nodes(self, timeout: float) -> dict[str, int]:
        self._answer()
        return {node: deadline for node, _, deadline in self.drains}

    def drain_node(
        self, node_id: str, reason: int, message: str, deadline_ms: int, timeout: float
    ) -> tuple[bool, str]:
        self._answer()
        if self.refuses:
            return False, "not now"
        self.drains.append((node_id, message, deadline_ms))
        return True, ""

    def internal_kv_put(
        self, key: bytes, value: bytes, overwrite: bool, namespace: bytes, timeout: float
    ) -> int:
        self._answer()
        assert overwrite
        self.stored[namespace, key] = value
        return 1

    def internal_kv_keys(self, prefix: bytes, namespace: bytes, timeout: float) -> list[bytes]:
        self._answer()
        return [key for space, key in self.stored if space == namespace and key.startswith(prefix)]

    def internal_kv_multi_get(
        self, keys: list[bytes], namespace: bytes, timeout: float
    ) -> dict[bytes, bytes]:
        self._answer()
        return {key: self.stored[namespace, key] for key in keys}

    def internal_kv_del(self, key: bytes, prefix: bool, namespace: bytes, timeout: float) -> int:
        self._answer()
        return 1 if self.stored.pop((namespace, key), None) is not None else 0
