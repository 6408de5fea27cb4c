"""The Compute Engine client: machines in, machines out, and what is known about where to get them.

Covered: instances of one project, their operations, and what a check of the project needs. Not
covered: disks, networks and images are used, never made. Every failure is a `GceError`; an empty
answer means that there is nothing, never that nobody answered.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cluster.gce.errors import GceError, Kind, of_operation, refuses_notice
from cluster.gce.project import ProjectReader
from cluster.gce.reach import Reach
from cluster.gce.requests import (
    Preemption,
    asks_for_notice,
    to_instance,
    to_preemption,
    to_vm,
    without_notice,
)
from cluster.gce.session import READ, WRITE, Patience, Session
from cluster.machines import CLUSTER_LABEL, Vm, VmRequest
from ironcliw.setting_sections import CloudSettings

if TYPE_CHECKING:
    from google.cloud import compute_v1

__all__ = ["ComputeClient", "GceError", "Insertion", "Kind", "Listing", "Preemption"]

_PREEMPTED = "compute.instances.preempted"
_PAGE = 500
# an insert is done in 5 to 20 seconds; asked twice a second at first, later every two
_FIRST_POLL = 0.5
_LONGEST_POLL = 2.0


@dataclass(frozen=True, slots=True)
class Insertion:
    """How a machine was made.

    `notice_seconds` is the preemption notice that it has; `remark` says so where it is not the one
    that was asked for.
    """

    notice_seconds: int
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The machines of a cluster, by name, and when that was so.

    `at` is by the cloud's own clock, in whole seconds; None where its answer did not say.
    """

    vms: list[Vm]
    at: datetime | None = None


class ComputeClient(ProjectReader):
    """Machines of one GCP project; safe to share between threads.

    Args:
        cloud: Project, zones and endpoint.
        clock: Monotonic seconds.
        sleep: Called with seconds, between tries and polls.

    Raises:
        SettingsError: no project, or an endpoint that must not be used.
    """

    def __init__(
        self,
        cloud: CloudSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(cloud, Session(cloud, clock, sleep))
        self._notice_refused = False
        self._reach = Reach(cloud.zones)

    def list_vms(self, cluster: str) -> list[Vm]:
        """The machines of `listing`, without the time."""
        return self.listing(cluster).vms

    def listing(self, cluster: str) -> Listing:
        """Every machine that carries the cluster's label, in whatever state, by name.

        Raises:
            GceError: also (unavailable) when a zone cannot be reached that is one of `cloud.zones`
                or had machines of ours: they would look as if they were gone.
        """
        action = f"list of the machines of cluster {cluster}"
        instances: list[compute_v1.Instance] = []
        for page in self._pages(
            action, "InstancesClient", filter=f'labels.{CLUSTER_LABEL}="{cluster}"'
        ):
            self._reach.check(action, page, self._reach.ours)
            for scope in page.items.values():
                instances.extend(scope.instances)
        vms = sorted((to_vm(instance) for instance in instances), key=lambda vm: vm.name)
        self._reach.found(vm.zone for vm in vms)
        return Listing(vms, self.session.listed.last())

    def insert(self, request: VmRequest, timeout: float = 60.0) -> Insertion:
        """Makes a machine; returns when GCE has done so, which is before the machine has booted.

        Sent again with the same `request_id`, the same machine is meant.

        Raises:
            GceError: refused, or not done within `timeout` seconds; where `may_exist` is true the
                machine may come all the same.
        """
        deadline = self.session.clock() + timeout
        if asks_for_notice(request) and self._notice_refused:
            request = without_notice(request)
        try:
            self._insert(request, deadline)
        except GceError as error:
            if not (asks_for_notice(request) and refuses_notice(error)):
                raise
            self._notice_refused = True
            wanted, request = request.notice_seconds, without_notice(request)
            self._insert(request, deadline)
            remark = (
                f"GCE refuses a preemption notice of {wanted} s; {request.name} has "
                f"{request.notice_seconds} s ({error.code})"
            )
            return Insertion(request.notice_seconds, remark)
        return Insertion(request.notice_seconds)

    def delete(self, name: str, zone: str) -> None:
        """Has a machine deleted, without waiting for it; one that is gone already is fine.

        Raises:
            GceError: refused, or nobody answered.
        """
        try:
            self.session.call(
                f"delete of {name} in {zone}",
                "InstancesClient",
                "delete_unary",
                WRITE,
                request={
                    "project": self.session.project,
                    "zone": zone,
                    "instance": name,
                    "request_id": str(uuid.uuid4()),
                },
            )
        except GceError as error:
            if error.kind != "missing":
                raise

    def console(self, name: str, zone: str, count: int) -> str:
        """The last so many bytes that a machine wrote on its serial console.

        Raises:
            GceError: There is none, or nobody answered; GCE may keep none of one that stopped.
        """
        found = self.session.call(
            f"serial console of {name} in {zone}",
            "InstancesClient",
            "get_serial_port_output",
            READ,
            request={
                "project": self.session.project,
                "zone": zone,
                "instance": name,
                "port": 1,
                "start": -count,  # from the end
            },
        )
        return str(found.contents)

    def preemptions(self, zones: Sequence[str], since: datetime) -> list[Preemption]:
        """Machines that GCE took back in those zones since that time, oldest first.

        Raises:
            GceError: as `list_vms`.
        """
        action = "list of preemptions"
        found: list[Preemption] = []
        for page in self._pages(
            action, "GlobalOperationsClient", filter=f'operationType="{_PREEMPTED}"'
        ):
            self._reach.check(action, page, frozenset(zones))
            for scope in page.items.values():
                found.extend(to_preemption(operation) for operation in scope.operations)
        # by our own clockwork: the API's filter compares times as text
        recent = (one for one in found if one.zone in zones and one.at >= since)
        return sorted(recent, key=lambda one: (one.at, one.name))

    def _insert(self, request: VmRequest, deadline: float) -> None:
        action = f"insert of {request.name} in {request.zone}"
        remaining = deadline - self.session.clock()
        body = {
            "project": self.session.project,
            "zone": request.zone,
            "instance_resource": to_instance(request),
            "request_id": request.request_id,
        }
        try:
            operation = self.session.call(
                action, "InstancesClient", "insert_unary", WRITE.within(remaining), request=body
            )
            self._wait(action, request.zone, operation, deadline)
        except GceError as error:
            # an earlier try was not answered, and the name is now taken: by that try
            if error.kind == "name" and error.may_exist and self._is_made(request):
                return
            raise

    def _wait(
        self, action: str, zone: str, operation: compute_v1.Operation, deadline: float
    ) -> None:
        """Polls at the endpoint of the settings; the library's own polling asks Google's."""
        pause = _FIRST_POLL
        while not operation.done:
            if self.session.clock() + pause > deadline:
                raise GceError(
                    f"{action} is not done in time; it may come about all the same",
                    kind="unavailable",
                    code="OPERATION_TIMEOUT",
                    may_exist=True,
                )
            self.session.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_POLL)
            operation = self._poll(action, zone, operation, deadline)
        if error := of_operation(action, operation):
            raise error

    def _poll(
        self, action: str, zone: str, operation: compute_v1.Operation, deadline: float
    ) -> compute_v1.Operation:
        """The operation as it is now, or as it was if nobody answers."""
        remaining = deadline - self.session.clock()
        try:
            polled: compute_v1.Operation = self.session.call(
                f"poll of the {action}",
                "ZoneOperationsClient",
                "get",
                READ.within(remaining),
                project=self.session.project,
                zone=zone,
                operation=operation.name,
            )
        except GceError as error:
            if error.kind in ("unavailable", "rate"):
                return operation
            error.may_exist = True
            raise
        return polled

    def _is_made(self, request: VmRequest) -> bool:
        """Whether a machine of that name and with all those labels exists."""
        try:
            instance: compute_v1.Instance = self.session.call(
                f"look at {request.name} in {request.zone}",
                "InstancesClient",
                "get",
                READ,
                project=self.session.project,
                zone=request.zone,
                instance=request.name,
            )
        except GceError as error:
            if error.kind == "missing":
                return False
            error.may_exist = True
            raise
        return dict(request.labels).items() <= dict(instance.labels).items()

    def _pages(self, action: str, client: str, **request: Any) -> Iterator[Any]:
        """Pages of an aggregated list; all together take no longer than one patient read."""
        deadline = self.session.clock() + READ.total
        # an empty token is no token, and the API says so
        token: dict[str, str] = {}
        while True:
            left = Patience(max(deadline - self.session.clock(), 0.0), READ.attempt)
            page = self.session.call(
                action,
                client,
                "aggregated_list",
                left,
                request={
                    "project": self.session.project,
                    "max_results": _PAGE,
                    **token,
                    **request,
                },
            )
            yield page
            if not page.next_page_token:
                return
            token = {"page_token": page.next_page_token}
