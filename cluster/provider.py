"""The node provider of Ray's autoscaler: workers are machines of Compute Engine.

Ray asks for little of it, and from several threads: in a loop of seconds the list of what
there is, and now and then a machine more or less. Nothing is remembered but the last listing, so a
new autoscaler continues by the labels of the machines. The head, which no API lists, is listed too:
without it the autoscaler launches nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import ray
from pydantic import ValidationError
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_UNMANAGED,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_LAUNCH_REQUEST,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from cluster.announcements import Announcements
from cluster.events import EventLog
from cluster.gce.client import ComputeClient
from cluster.head.head_id import head_id
from cluster.head.ray_environment import token_path
from cluster.head.record import HeadRecord, read_token, record_path
from cluster.launch.launcher import Launcher, LaunchError
from cluster.launch.worker_request import LAUNCH_LABEL, HeadFacts, NodeOrder
from cluster.launch.zone_choice import ZoneChoice
from cluster.machines import TYPE_LABEL, Vm, VmStatus
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from cluster.own_machines import OwnCloud, OwnMachines, whose
from cluster.stopped_machines import StoppedMachines
from cluster.vm.join_check import head_versions
from cluster.vm.startup import HeadAddress
from ironcliw.errors import ClusterError, SettingsError, UnsupportedError
from ironcliw.setting_sections import BudgetSettings, CloudSettings
from ironcliw.settings import load_settings, python_match_level
from ironcliw.store import Store

_LONGEST_CATEGORY = 19  # Ray shows no more
_RAY_UTIL = logging.getLogger("ray.autoscaler._private.util")


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What stands below `provider:` in `ray_cluster.yaml`."""

    cloud: CloudSettings
    budget: BudgetSettings
    head_id: str
    head_type: str
    head: HeadAddress

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ProviderConfig:
        """Read it.

        Raises:
            SettingsError: A part is missing or wrong.
        """
        try:
            head = config["head"]
            return cls(
                CloudSettings.model_validate(config["cloud"]),
                BudgetSettings.model_validate(config["budget"]),
                str(head["instance_id"]),
                str(head["node_type"]),
                HeadAddress(str(head["address"]), int(head["port"])),
            )
        except (KeyError, TypeError, ValidationError, ValueError) as error:
            raise SettingsError(
                f"`provider:` of the cluster's definition cannot be used ({error!r}); see "
                "`ironcliw cluster validate`, or render it anew with `ironcliw cluster render`"
            ) from error


class GceSpotProvider(NodeProvider):
    """Named by `provider.module` in `ray_cluster.yaml`; made by Ray's monitor.

    Args:
        provider_config: The mapping below `provider:`.
        cluster_name: Value of the label by which machines are ours.
        client: By default one of the definition's project.
        clock: The wall clock; aware datetimes.

    Raises:
        UnsupportedError: Ray runs its first autoscaler.
        SettingsError: The definition cannot be used.
    """

    def __init__(
        self,
        provider_config: dict[str, Any],
        cluster_name: str,
        *,
        client: ComputeClient | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(provider_config, cluster_name)
        _refuse_first_autoscaler()
        _RAY_UTIL.addFilter(_is_news)
        self._config = ProviderConfig.of(provider_config)
        cloud, budget = self._config.cloud, self._config.budget
        self._settings = load_settings()
        self._client = client or ComputeClient(cloud)
        store = Store(self._settings.store_url)
        store.migrate()
        self._announcements = Announcements(EventLog(store, clock), clock)
        ledger = Ledger(store, PriceTable.of(budget), budget, clock)
        self._own = OwnMachines(
            head_id(self._settings.state_dir), ledger.ordered, self._tell_of_another
        )
        self._launcher = Launcher(
            cluster=cluster_name,
            settings=cloud,
            cloud=OwnCloud(self._client, self._own),
            ledger=ledger,
            zones=ZoneChoice(cloud, store, self._client.capacity, clock=clock),
            announcements=self._announcements,
            head=self._head_facts,
            clock=clock,
            head_since=self._head_since,
        )
        self._stopped = StoppedMachines(self._client, self._announcements)
        self._lock = threading.Lock()
        self._listed: dict[str, Vm] = {}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        """The head, and every machine that works or is about to.

        Raises:
            GceError: There is no answer. Ray skips its round then; an empty list would mean that
                all machines are gone.
        """
        listed = {vm.name: vm for vm in self._list()}
        with self._lock:
            self._listed = listed
        # Ray, for which they are gone, never asks for their end
        self._stopped.sweep(listed.values())
        nodes = [self._config.head_id, *(name for name, vm in listed.items() if vm.is_live)]
        return [node for node in nodes if tag_filters.items() <= self.node_tags(node).items()]

    def node_tags(self, node_id: str) -> dict[str, str]:
        """What Ray calls tags, of a node of the last listing."""
        if node_id == self._config.head_id:
            return _tags(node_id, NODE_KIND_HEAD, self._config.head_type)
        labels = self._vm(node_id).labels
        node_type = labels.get(TYPE_LABEL)
        if (
            node_type is None
        ):  # ours by the ledger or by the head's label: somebody changed its labels by hand
            return _tags(node_id, NODE_KIND_UNMANAGED, "")
        tags = _tags(node_id, NODE_KIND_WORKER, node_type)
        if LAUNCH_LABEL in labels:
            tags[TAG_RAY_LAUNCH_REQUEST] = labels[LAUNCH_LABEL]
        return tags

    def is_running(self, node_id: str) -> bool:
        """Whether a node of the last listing has booted."""
        if node_id == self._config.head_id:
            return True
        with self._lock:
            vm = self._listed.get(node_id)
        return vm is not None and vm.status is VmStatus.RUNNING

    def is_terminated(self, node_id: str) -> bool:
        """Whether the last listing lacks a node, or shows it stopped."""
        if node_id == self._config.head_id:
            return False
        with self._lock:
            vm = self._listed.get(node_id)
        return vm is None or not vm.is_live

    def internal_ip(self, node_id: str) -> str:
        """Address within the cloud's network."""
        if node_id == self._config.head_id:
            return self._config.head.host
        return self._vm(node_id).address

    def external_ip(self, node_id: str) -> str:
        """The same: nobody logs in to a worker from outside."""
        return self.internal_ip(node_id)

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """Nothing: the second autoscaler keeps the state of nodes itself."""

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any] | None:
        """Refused: a worker must be told its resources.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError("Ray's first autoscaler is not supported; see `ironcliw up`")

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> dict[str, Any] | None:
        """Launches machines, one after the other.

        Raises:
            NodeLaunchException: One could not be had; those before it are there.
        """
        order = NodeOrder(
            tags[TAG_RAY_USER_NODE_TYPE], resources, labels, tags.get(TAG_RAY_LAUNCH_REQUEST, "")
        )
        for _ in range(count):
            try:
                self._launcher.launch(order)
            except LaunchError as error:
                category = error.category[:_LONGEST_CATEGORY]
                raise NodeLaunchException(category, error.message, sys.exc_info()) from error
        return None

    def terminate_node(self, node_id: str) -> dict[str, Any] | None:
        """Has a machine deleted; one that is gone already is fine.

        Raises:
            GceError: Refused, or nobody answered; Ray tries again.
            ClusterError: It is the head.
        """
        if node_id == self._config.head_id:
            raise ClusterError("the head is this machine; stop it with `ironcliw down`")
        with self._lock:
            vm = self._listed.get(node_id)
        if vm is None:
            vm = next((one for one in self._list() if one.name == node_id), None)
        if vm is not None:
            self._client.delete(vm.name, vm.zone)
            message = f"machine {vm.name} in {vm.zone} is deleted by the autoscaler"
            self._announcements.add("deleted", message, name=vm.name, zone=vm.zone)
        return None

    def terminate_nodes(self, node_ids: list[str]) -> dict[str, Any] | None:
        """Has machines deleted; one that fails does not save the others.

        Raises:
            ClusterError: The first failure.
        """
        failures: list[ClusterError] = []
        for node_id in node_ids:
            try:
                self.terminate_node(node_id)
            except ClusterError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return None

    def _list(self) -> list[Vm]:
        """The machines of this head; those of another one with our cluster's name are none."""
        return self._own.among(self._client.list_vms(self.cluster_name))

    def _tell_of_another(self, vm: Vm) -> None:
        message = (
            f"machine {vm.name} in {vm.zone} carries our cluster's name, and {whose(vm)}: it is "
            "left alone; give each head of the project a cloud.cluster_name of its own, or delete "
            "the machine in the console if nobody has it"
        )
        self._announcements.add("foreign", message, name=vm.name, zone=vm.zone)

    def _vm(self, node_id: str) -> Vm:
        with self._lock:
            vm = self._listed.get(node_id)
        if vm is None:
            raise ClusterError(f"the last listing of cluster {self.cluster_name} lacks {node_id}")
        return vm

    def _head_facts(self) -> HeadFacts:
        token = read_token(token_path(self._settings))
        return HeadFacts(self._config.head, self._versions, token, self._own.head_id)

    def _head_since(self) -> datetime | None:
        record = HeadRecord.read(record_path(self._settings.state_dir))
        return None if record is None else datetime.fromtimestamp(record.started_at, UTC)

    @cached_property
    def _versions(self) -> Any:
        # seconds of work, and the same as long as this process lives
        return head_versions(python_match_level())


def _tags(name: str, kind: str, node_type: str) -> dict[str, str]:
    return {
        TAG_RAY_NODE_KIND: kind,
        TAG_RAY_USER_NODE_TYPE: node_type,
        TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
        TAG_RAY_NODE_NAME: name,
    }


def _refuse_first_autoscaler() -> None:
    """Ray's first autoscaler knows nodes by address, and has drained a head for a worker."""
    if not ray._config.enable_autoscaler_v2():
        raise UnsupportedError(
            "the cluster needs Ray's second autoscaler: start the head with `ironcliw up`, or set "
            "RAY_enable_autoscaler_v2=1 before `ray start`"
        )


def _is_news(record: logging.LogRecord) -> bool:
    """Ray warns twice a round of two empty fields that it adds to every definition itself."""
    return "empty legacy field" not in record.getMessage()
