"""Carries out what the controller has decided, in threads, and tells how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from ray.exceptions import RayError

from cluster.announcements import Announcements
from cluster.control.gcs_link import GcsLink
from cluster.control.instructions import Delete, Demand, Drain, Forget, Instruction, Tell
from cluster.control.last_words import READ_BYTES, last_words
from cluster.gce.client import ComputeClient
from cluster.head.ray_environment import token_path
from cluster.launch.not_joined import NEXT_STEP, NOT_JOINED
from ironcliw.errors import ClusterError, IroncliwError
from ironcliw.settings import Settings

logger = logging.getLogger(__name__)

FAILURES = (IroncliwError, RayError, OSError)
"""What a call of the cloud, the head or the store may end with."""
_REMEMBERED = 500  # events that are looked through for machines that were deleted


class Performer:
    """Waits for nothing: a call is begun here and ends in a later `finish`.

    Args:
        settings: All of the head's.
        client: Of the cloud.
        gcs: Of the head.
        announcements: Where it is told.
        head_thread: Runs the calls of the head, one at a time.
        cloud_threads: Runs those of the cloud.
    """

    def __init__(
        self,
        settings: Settings,
        client: ComputeClient,
        gcs: GcsLink,
        announcements: Announcements,
        head_thread: Executor,
        cloud_threads: Executor,
    ) -> None:
        self._settings = settings
        self._client = client
        self._gcs = gcs
        self._announcements = announcements
        self._head_thread = head_thread
        self._cloud_threads = cloud_threads
        self._pending: dict[Future[Any], Instruction] = {}

    def perform(self, instruction: Instruction) -> None:
        """Begin it, unless it is under way."""
        match instruction:
            case Tell(kind, message, name):
                if kind != NOT_JOINED or not self._was_deleted(name):
                    self._announcements.add(kind, message, name=name)
            case Drain(node_id, name, seconds, reason):
                message = f"{name} {reason}"
                self._submit(
                    self._head_thread,
                    instruction,
                    lambda: self._gcs.drain(node_id, message, seconds),
                )
            case Delete(name, zone, _, never_joined):
                self._submit(
                    self._cloud_threads,
                    instruction,
                    lambda: self._end(name, zone, never_joined),
                )
            case Forget(name) if instruction not in self._pending.values():
                self._submit(self._head_thread, instruction, lambda: self._gcs.forget(name))
            case Demand(workers) if instruction not in self._pending.values():
                self._submit(self._head_thread, instruction, lambda: self._gcs.demand(workers))

    def _submit(self, executor: Executor, instruction: Instruction, act: Callable[[], Any]) -> None:
        self._pending[executor.submit(act)] = instruction

    def finish(self) -> list[Instruction]:
        """Tell how what was begun has ended; returns what failed."""
        failed = []
        for future in [one for one in self._pending if one.done()]:
            instruction = self._pending.pop(future)
            try:
                result = future.result()
            except FAILURES as error:
                failed.append(instruction)
                if isinstance(instruction, Demand) and isinstance(error, ClusterError):
                    # it lasts until somebody withdraws what stands in the way
                    self._announcements.add("head", error.message)
                else:
                    logger.warning("%s failed: %s", instruction, error)
                continue
            match instruction:
                case Drain(_, name, seconds, reason):
                    message = f"the node of machine {name} is drained for {seconds:.0f} s"
                    self._announcements.add("drained", f"{message}: {name} {reason}", name=name)
                case Delete(name, zone, reason, never_joined):
                    message = f"machine {name} in {zone} is deleted: {reason}"
                    self._announcements.add("reaped", message, name=name, zone=zone)
                    if never_joined:
                        message = f"machine {name} in {zone} never joined: {reason}; "
                        message += f"{result}; {NEXT_STEP}"
                        self._announcements.add(NOT_JOINED, message, topic=name, name=name)
        return failed

    def _end(self, name: str, zone: str, never_joined: bool) -> str:
        """Deletes a machine; what its console said last, which goes with it."""
        said = self._last_words(name, zone) if never_joined else ""
        self._client.delete(name, zone)
        return said

    def _last_words(self, name: str, zone: str) -> str:
        try:
            console = self._client.console(name, zone, READ_BYTES)
        except IroncliwError as error:
            # the machine is deleted all the same: it costs money, and a console is a convenience
            return f"its serial console could not be read ({error.message})"
        path = token_path(self._settings)
        token = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        words = last_words(console, [token])
        return f"its serial console ends: {words}" if words else "its serial console is empty"

    def _was_deleted(self, name: str) -> bool:
        """Whether the autoscaler did it: nobody wanted the machine any more."""
        recent = self._announcements.recent(_REMEMBERED, ("deleted",))
        return any(event.facts.get("name") == name for event in recent)
