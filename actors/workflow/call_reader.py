"""Reads what a step calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from actors.workflow.graph import Call, RetryPolicy
from actors.workflow.references import Template
from ironcliw.errors import RequestError
from ironcliw.schemas.workflows import STEP_KINDS, AgentForm, CallForm, StepKind

_TARGET = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,199}")
# one of each group must be there
_REQUIRED: Mapping[StepKind, tuple[tuple[str, ...], ...]] = {
    "http": (("url",),),
    "embed": (("input",),),
    "decide": (("input",), ("labels", "questions")),
    "generate": (("messages", "prompt"),),
    "train": (("recipe",),),
}
_SAFE_METHODS = ("GET", "HEAD")  # RFC 9110, section 9.2.1


def at(path: str, message: str) -> RequestError:
    """An error that names the step and the field.

    Args:
        path: As `steps.NAME.FIELD`.
        message: Which rule is broken, and what to do.
    """
    parts = path.split(".")
    if parts[0] == "steps":
        name, rest = parts[1], ".".join(parts[2:])
        where = f"step {name!r}" + (f", field `{rest}`" if rest else "")
    else:
        where = f"field `{path}`"
    return RequestError(f"{where}: {message}", param=path, code="invalid_workflow")


def read_call(path: str, form: CallForm) -> Call:
    """Checks the kind and what belongs to it.

    Args:
        path: Of the step or its compensation, for messages.
        form: Right field by field.

    Raises:
        RequestError: A rule is broken.
    """
    kind = _kind(path, form)
    target, options = _target(path, kind, form)
    block: dict[str, Any] = form.with_ or {} if target else getattr(form, kind)
    if form.with_ is not None and not target:
        raise at(f"{path}.with", f"a step of the kind {kind!r} has its arguments under `{kind}`")
    _require(path, kind, block)
    try:
        inputs = Template(block)
    except ValueError as error:
        raise at(f"{path}.{'with' if target else kind}", str(error)) from None
    retry = form.retry
    return Call(
        kind=kind,
        target=target,
        inputs=inputs,
        options=options,
        retry=RetryPolicy(retry.attempts, retry.backoff_seconds, retry.factor, retry.max_seconds),
        timeout_seconds=form.timeout_seconds,
        idempotent=_idempotent(kind, form),
        place=form.place,
        memory_gb=form.memory_gb,
        expected_seconds=form.expected_seconds,
    )


def _kind(path: str, form: CallForm) -> StepKind:
    given = [kind for kind in STEP_KINDS if getattr(form, kind) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise at(path, f"it has {found} of {', '.join(STEP_KINDS)}: give exactly one")
    return given[0]


def _target(path: str, kind: StepKind, form: CallForm) -> tuple[str, dict[str, Any]]:
    if kind == "function":
        return _name(f"{path}.function", form.function), {}
    if kind != "agent":
        return "", {}
    if isinstance(form.agent, str):
        return _name(f"{path}.agent", form.agent), {"by": "capability"}
    agent = form.agent or AgentForm()
    if (agent.capability is None) == (agent.name is None):
        raise at(f"{path}.agent", "give either `capability` or `name`")
    if agent.method is not None and agent.name is None:
        raise at(f"{path}.agent.method", "it goes with `name`")
    by = "name" if agent.capability is None else "capability"
    options = agent.model_dump(exclude_unset=True, exclude={"capability", "name"})
    return _name(f"{path}.agent.{by}", agent.capability or agent.name), {"by": by, **options}


def _name(path: str, given: str | None) -> str:
    if given is None or not _TARGET.fullmatch(given):
        raise at(
            path,
            f"{given!r} is no name: letters, digits and `_.:-`, at most 200, and no references, so "
            "that a definition shows what it calls",
        )
    return given


def _require(path: str, kind: StepKind, block: Mapping[str, Any]) -> None:
    for names in _REQUIRED.get(kind, ()):
        if not any(name in block for name in names):
            raise at(f"{path}.{kind}", f"`{'` or `'.join(names)}` is missing")


def _idempotent(kind: StepKind, form: CallForm) -> bool | None:
    if form.idempotent is not None:
        return form.idempotent
    if kind == "http":
        method = (form.http or {}).get("method", "GET")
        return isinstance(method, str) and method.upper() in _SAFE_METHODS
    # None: the executor knows what functions and capabilities declare
    return None if kind in ("function", "agent") else True
