"""What whoever submits a workflow must be allowed beside submitting it.

Steps are done with the rights of the head. So they may do nothing that their submitter could not
have asked of it directly: a model is asked with the scope `infer`, and training, which reads and
writes files of the head and publishes with its owner's name, is for `admin`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from actors.workflow.graph import Call, Definition
from ironcliw.errors import PermissionDeniedError
from ironcliw.schemas.base import Scope
from ironcliw.schemas.workflows import StepKind

_NEEDED: Mapping[StepKind, Scope] = {
    "embed": "infer",
    "decide": "infer",
    "generate": "infer",
    "train": "admin",
}


def check_scopes(definition: Definition, scopes: Collection[str] | None) -> None:
    """Refuse steps that the submitter's key does not allow.

    Args:
        definition: Checked.
        scopes: Of the key; None: the owner, who may do everything.

    Raises:
        PermissionDeniedError: The message names the step and the scope that it needs.
    """
    if scopes is None or "admin" in scopes:
        return
    for path, call in _calls(definition):
        needed = _NEEDED.get(call.kind)
        if needed is not None and needed not in scopes:
            raise PermissionDeniedError(
                f"{path}: a step of the kind {call.kind!r} needs the scope {needed}, and this key "
                f"has {', '.join(sorted(scopes)) or 'none'}; take the step out or use another key",
                param=f"{path}.{call.kind}",
            )


def _calls(definition: Definition) -> Iterator[tuple[str, Call]]:
    for step in definition.steps:
        yield f"steps.{step.name}", step.call
        if step.compensate is not None:
            yield f"steps.{step.name}.compensate", step.compensate
