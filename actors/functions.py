"""Python functions that workflow steps may name.

    from actors.functions import current_step, function

    @function("knowledge.lookup", idempotent=True)
    def lookup(query: str, top_k: int = 3) -> list[str]:
        ...

A module with such functions is listed in the setting `actors.modules`; it is imported where
workflows are checked and where their steps run. A definition names a function by the name that it
was registered under, so whoever submits one can run what its owner meant for that, and no more.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from ironcliw.errors import NotFoundError, RequestError, SettingsError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*")


@dataclasses.dataclass(frozen=True, slots=True)
class Registered:
    """A function that steps may name.

    Attributes:
        name: As definitions write it.
        call: The function; it may be a coroutine function.
        idempotent: Doing it twice is as good as once: it is run again after a crash.
        cpus: Share of a core that it books; None: the setting `actors.function_cpus`.
    """

    name: str
    call: Callable[..., Any]
    idempotent: bool
    cpus: float | None

    @property
    def place(self) -> str:
        """Where it is defined, for messages: `module:function`."""
        return f"{self.call.__module__}:{self.call.__qualname__}"


@dataclasses.dataclass(frozen=True, slots=True)
class StepContext:
    """What a running function may know of its step.

    Attributes:
        workflow_id: The run.
        step: Name of the step.
        item: Place in the fan-out; None without one.
        attempt: 1 for the first.
        key: The same for every attempt: hand it on as an idempotency key.
        deadline: Unix time at which the attempt is ended; None without one.
    """

    workflow_id: str
    step: str
    item: int | None
    attempt: int
    key: str
    deadline: float | None


_registered: dict[str, Registered] = {}
_context: contextvars.ContextVar[StepContext] = contextvars.ContextVar("ironcliw_step")


def function(
    name: str, *, idempotent: bool = False, cpus: float | None = None
) -> Callable[[FunctionT], FunctionT]:
    """Register a function under a name that workflow steps may use.

    Args:
        name: Words of letters, digits, `_` and `-`, joined by dots.
        idempotent: See `Registered`.
        cpus: Share of a core that a call books.

    Raises:
        SettingsError: the name cannot be one, or another function has it.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot name a function of workflows: join words of letters, digits, '_' and "
            "'-' by dots, as knowledge.lookup"
        )
    if cpus is not None and not 0 < cpus <= 64:
        raise SettingsError(f"cpus of function {name!r} is {cpus:g}; give above 0 and up to 64")

    def register(call: FunctionT) -> FunctionT:
        new = Registered(name, call, idempotent, cpus)
        old = _registered.get(name)
        # the same place again is a module that is imported a second time, by its path perhaps
        if old is not None and old.place != new.place:
            raise SettingsError(
                f"two functions want the name {name!r}: {old.place} and {new.place}; rename one"
            )
        _registered[name] = new
        return call

    return register


def load_modules(modules: Iterable[str]) -> None:
    """Import the modules of the setting `actors.modules`.

    Raises:
        SettingsError: one cannot be imported; the message says why.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except SettingsError:
            raise
        # the boundary to code of the user, whose import may raise anything
        except Exception as error:
            raise SettingsError(
                f"setting actors.modules: {module} cannot be imported "
                f"({type(error).__name__}: {error}); `ironcliw up` must run where Python finds it"
            ) from error


def registered() -> Mapping[str, Registered]:
    """Every function that is known here, by name."""
    return dict(_registered)


def find(name: str) -> Registered:
    """The function of a name.

    Raises:
        NotFoundError: there is none; the message names those that are.
    """
    found = _registered.get(name)
    if found is None:
        known = ", ".join(sorted(_registered)) or "none; list their modules in actors.modules"
        raise NotFoundError(
            f"no function is registered as {name!r}; registered: {known}", param="function"
        )
    return found


def check_arguments(name: str, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that the function does not take, before it runs.

    Raises:
        NotFoundError: no such function.
        RequestError: an argument is missing, or not known.
    """
    found = find(name)
    signature = inspect.signature(found.call)
    try:
        signature.bind(**inputs)
    except TypeError as error:
        given = ", ".join(inputs) or "nothing"
        raise RequestError(
            f"function {name!r} takes {signature}: {error}; given: {given}", param="with"
        ) from None


def current_step() -> StepContext:
    """The step that the calling function runs for.

    Raises:
        RequestError: it is not run by a workflow.
    """
    try:
        return _context.get()
    except LookupError:
        raise RequestError(
            "current_step() was called outside a workflow's step; call it in a registered function"
        ) from None


@contextlib.contextmanager
def running_step(context: StepContext) -> Iterator[None]:
    """Let `current_step` answer within the block."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)
