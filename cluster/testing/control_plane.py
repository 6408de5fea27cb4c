"""What clients may ask of a world: insert, delete, stop, change; with Google's rules for each."""

from __future__ import annotations

import uuid
from typing import Any

from cluster.testing import insert_rules, operations
from cluster.testing.api_errors import (
    already_exists,
    invalid,
    rate_limited,
    stale_fingerprint,
)
from cluster.testing.faults import RateLimited
from cluster.testing.instances import End, Instance
from cluster.testing.launch import plan_boot, refusal, rejected_field
from cluster.testing.operations import Operation
from cluster.testing.resources import fingerprint
from cluster.testing.world import World


class ControlPlane:
    """The writing half of the Compute API. Call it with the world's lock held."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._requests: dict[str, Operation] = {}
        self._created = 0

    def insert(self, zone: str, body: dict[str, Any], request_id: str | None) -> Operation:
        """Begin to create a VM.

        Raises:
            ApiError: 400, 403, 404 or 409; later refusals are in the operation.
        """
        world, name = self.world, str(body.get("name", ""))
        world.record("insert", zone, name)
        world.step()
        if (known := self._known(request_id)) is not None:
            return known
        if field := rejected_field(world.faults, world.now, zone, body):
            raise invalid(f"resource.{field}", "", "The field is not supported in this project.")
        resource = insert_rules.checked_instance(body, zone, world.catalogue)
        self._refuse_when_too_fast(zone, name)
        operation = self._create(zone, name, resource)
        return self._remember(request_id, operation)

    def _create(self, zone: str, name: str, resource: dict[str, Any]) -> Operation:
        world = self.world
        there = world.instances.get((zone, name))
        path = world.resource(zone, name)
        if there is not None and there.status(world.now) != "STOPPING":
            raise already_exists(path)
        error = operations.not_ready(path) if there else refusal(world, zone, resource)
        if error is not None:
            world.record("refused", zone, name)
            return world.operate("insert", zone, name, world.timings.refusal, error=error)
        instance, running_at = self._instance(zone, name, resource)
        world.instances[zone, name] = instance
        instance.creation = world.operate("insert", zone, name, running_at - world.now)
        world.happened("created", instance)
        world.step()
        return instance.creation

    def _instance(self, zone: str, name: str, resource: dict[str, Any]) -> tuple[Instance, float]:
        world, count = self.world, self._created
        self._created += 1
        boot = plan_boot(world, zone, name)
        external = resource["networkInterfaces"][0].get("accessConfigs")
        instance = Instance(
            id=world.new_id(),
            name=name,
            zone=zone,
            body=resource,
            address=world.address(count),
            # 203.0.113.0/24 is for documentation, RFC 5737: it leads nowhere
            external_address=f"203.0.113.{1 + count % 254}" if external else None,
            created_at=world.now,
            boots_at=boot.guest_at,
            timeline=list(boot.states),
        )
        longest = resource["scheduling"].get("maxRunDuration")
        if longest is not None:
            over = boot.running_at + float(longest["seconds"])
            off = over + world.timings.shutdown
            end = End.of(over, off, world.timings, delete=instance.deletes_itself)
            instance.plan_end(world.now, end)
        return instance, boot.running_at

    def end(self, zone: str, name: str, request_id: str | None, *, delete: bool) -> Operation:
        """Begin to delete a VM, or to stop it, which keeps its disk.

        Raises:
            ApiError: 400, 403 or 404.
        """
        world = self.world
        if (known := self._known(request_id)) is not None:
            return known
        instance = world.find(zone, name)
        self._refuse_when_too_fast(zone, name)
        off = world.now + world.timings.shutdown
        world.end(instance, stopping_at=world.now, off_at=off, delete=delete)
        over = instance.timeline[-1][0]
        kind = "delete" if delete else "stop"
        operation = world.operate(kind, zone, name, max(0.0, over - world.now))
        world.step()
        return self._remember(request_id, operation)

    def preempt(self, zone: str, name: str) -> Operation:
        """Simulate a maintenance event: a Spot VM is preempted with the usual notice.

        Raises:
            ApiError: 400 (it is no Spot VM) or 404.
        """
        instance = self.world.find(zone, name)
        if not instance.is_spot:
            raise invalid("instance", name, "The fake preempts Spot VMs only.")
        self.world.preempt(instance)
        return self.world.operate("simulateMaintenanceEvent", zone, name, 0.0)

    def set_labels(self, zone: str, name: str, body: dict[str, Any]) -> Operation:
        """Replace the labels.

        Raises:
            ApiError: 400, 404, or 412 when the fingerprint is not that of the present ones.
        """
        instance = self.world.find(zone, name)
        if body.get("labelFingerprint") != fingerprint(instance.body.get("labels", {})):
            raise stale_fingerprint("Labels")
        insert_rules.check_labels(body.get("labels", {}))
        instance.body["labels"] = dict(body.get("labels", {}))
        return self.world.operate("setLabels", zone, name, 0.0)

    def set_metadata(self, zone: str, name: str, body: dict[str, Any]) -> Operation:
        """Replace the metadata attributes; the VM's metadata server shows them at once.

        Raises:
            ApiError: 400, 404, or 412 when the fingerprint is not that of the present ones.
        """
        instance = self.world.find(zone, name)
        present = instance.body.get("metadata", {}).get("items", [])
        if body.get("fingerprint") != fingerprint(present):
            raise stale_fingerprint("Metadata")
        insert_rules.check_metadata(body)
        instance.body["metadata"] = {"items": list(body.get("items", []))}
        return self.world.operate("setMetadata", zone, name, 0.0)

    def _refuse_when_too_fast(self, zone: str, name: str) -> None:
        faults, now = self.world.faults, self.world.now
        limit = faults.active(RateLimited, now, zone, name)
        if limit is not None and not limit.late:
            faults.use(RateLimited, now, zone, name)
            raise rate_limited()

    def _known(self, request_id: str | None) -> Operation | None:
        """The operation of a request that was sent before."""
        if request_id is None:
            return None
        try:
            number = uuid.UUID(request_id)
        except ValueError as error:
            raise invalid("requestId", request_id, "Must be a UUID.") from error
        if number.int == 0:
            raise invalid("requestId", request_id, "The zero UUID is not supported.")
        return self._requests.get(request_id)

    def _remember(self, request_id: str | None, operation: Operation) -> Operation:
        if request_id is not None:
            self._requests[request_id] = operation
        return operation
