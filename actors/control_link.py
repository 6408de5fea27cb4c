"""Calls to the control actor of this head, from whatever process; the other side is `control`."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from ironcliw.errors import IroncliwError, UnavailableError

logger = logging.getLogger(__name__)

NAME = "actors-control"
NAMESPACE = "ironcliw"
NOT_READY = "control_not_ready"
"""Code of the error with which a control actor answers that does not lead yet."""
# The control actor is back within a second or two after it was killed, on a busy machine in ten.
_PATIENCE_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_STATUS_SECONDS = 2.0


class ControlLink:
    """Finds the control actor, and again after it was restarted.

    Args:
        patience_seconds: How long a call that may be repeated waits for it to come back.
    """

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._patience = patience_seconds
        self._handle: Any = None

    async def workflows(self, method: str, *, repeatable: bool, **arguments: Any) -> Any:
        """Call a method of `actors.workflow_service.WorkflowService`.

        Args:
            method: Its name.
            repeatable: Doing it twice is as good as once.
            arguments: Its arguments.

        Raises:
            IroncliwError: What the method raises.
            UnavailableError: The control actor is not there.
        """
        return await self.call("workflows", method, repeatable=repeatable, **arguments)

    async def call(self, part: str, method: str, *, repeatable: bool, **arguments: Any) -> Any:
        """Call a method of one of the control actor's parts."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                handle = await self._actor()
                error, value = await handle.answer.remote(part, method, arguments)
            except (RayActorError, ValueError) as lost:
                # ValueError: no actor has the name, as while a head is starting
                self._handle = None
                begun = isinstance(lost, RayActorError)
                if (begun and not repeatable) or time.monotonic() > deadline:
                    raise _away(lost) from lost
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except RayTaskError:
                raise  # a bug on the other side: whoever serves the request logs it
            except RayError as lost:
                self._handle = None
                raise _away(lost) from lost
            if error is not None and error.code == NOT_READY and time.monotonic() < deadline:
                # nothing was begun, so this may be repeated whatever it is
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if error is not None:
                assert isinstance(error, IroncliwError)
                raise error
            return value

    async def status(self) -> dict[str, Any]:
        """How workflows and agents stand; `{"state": "away"}` where nobody says so at once."""
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                handle = await self._actor()
                told: dict[str, Any] = await handle.status.remote()
                return told
        except (TimeoutError, RayError, ValueError):  # ValueError: no actor has the name
            self._handle = None
            return {"state": "away", "leader": None, "error": None}

    async def _actor(self) -> Any:
        if self._handle is None:
            # it asks the GCS, and so may block
            self._handle = await asyncio.to_thread(ray.get_actor, NAME, NAMESPACE)
        return self._handle


def _away(error: Exception) -> UnavailableError:
    reason = str(error).strip().partition("\n")[0][:200]
    return UnavailableError(
        f"workflows and agents are not there now ({reason}); they come back by themselves, and "
        "`ironcliw status` says whether the head runs",
        retry_after=1.0,
    )
