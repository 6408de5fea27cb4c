"""From a submission to a workflow that can start."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from typing import Any

from actors.orchestration.live import LiveWorkflow
from actors.workflow.definition import define
from actors.workflow.graph import Definition
from actors.workflow.limits import Limits
from actors.workflow.machine import Machine
from actors.workflow.shown import why_not_shown
from actors.workflow.tasks import StepError
from actors.workflow.values import as_json
from actors.workflow.views import Facts
from actors.workflow_records import WorkflowRow
from ironcliw.errors import ConflictError, RequestError, RequestTooLargeError
from ironcliw.schemas.base import Priority

MAX_KEY = 255
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as it counts


def new_id(now: float) -> str:
    """Ids grow with time to the millisecond; 80 random bits keep them apart (as in ULID)."""
    number = int(now * 1000) << 80 | secrets.randbits(80)
    return "wf-" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def prepare(
    definition: Mapping[str, Any] | Definition,
    inputs: Mapping[str, Any],
    now: float,
    *,
    owner: str,
    key: str | None,
    priority: Priority | None,
    deadline: float | None,
    limits: Limits,
) -> LiveWorkflow:
    """Checks a submission; the arguments are those of `Orchestrator.submit`.

    Raises:
        RequestError: A rule is broken.
        RequestTooLargeError: The definition or the inputs are too large.
    """
    checked = definition if isinstance(definition, Definition) else define(definition)
    if (why := why_not_shown(checked.source)) is not None:
        raise RequestError(
            f"the definition cannot be shown ({why}): write whole numbers of 64 bits at most, "
            "texts that are valid Unicode, and at most 200 levels",
            param="definition",
        )
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise RequestError(
            f"the key {key[:80]!r} cannot be used: give 1 to {MAX_KEY} printable ASCII characters",
            param="key",
        )
    if deadline is None and checked.deadline_seconds is not None:
        deadline = now + checked.deadline_seconds
    if deadline is not None and not now < deadline < math.inf:
        raise RequestError(
            f"the deadline {deadline:.3f} cannot be kept, it is {now:.3f} (Unix seconds)",
            param="deadline",
        )
    machine = Machine(
        new_id(now),
        checked,
        checked.bind(_checked_inputs(inputs, limits)),
        created_at=now,
        deadline=deadline,
        limits=limits,
    )
    return LiveWorkflow(machine, Facts(owner, priority or checked.priority, key), is_stored=False)


def check_same(live: LiveWorkflow, earlier: WorkflowRow) -> None:
    """Refuses a used key with something else; the priority and the deadline may differ.

    Args:
        live: The new submission.
        earlier: Stored with the same key of the same owner.

    Raises:
        ConflictError: `key_reused`: its definition, or its inputs, are not the same.
    """
    machine = live.machine
    for what, new, old in (
        ("another definition", machine.definition.source, earlier.definition),
        ("other inputs", machine.inputs, earlier.inputs),
    ):
        if _canonical(new) != _canonical(old):
            raise ConflictError(
                f"the key {live.facts.key!r} was used for workflow {earlier.id} "
                f"({earlier.name!r}) with {what}: submit what it was used for, or give another key",
                param="key",
                code="key_reused",
            )


def _canonical(value: Any) -> str:
    """Equal for what is the same JSON: to Python 1, 1.0 and true are equal, too."""
    return json.dumps(value, sort_keys=True)


def _checked_inputs(inputs: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    try:
        checked: dict[str, Any] = as_json(dict(inputs), limits.inputs_bytes, "the inputs")[0]
    except StepError as error:
        kind = RequestTooLargeError if error.failure == "oversized" else RequestError
        raise kind(error.message, param="inputs") from error
    return checked
