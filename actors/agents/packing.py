"""Values on their way between processes, packed one by one.

Many messages travel in one call. Ray would pickle them together, so one value that cannot be
pickled would take all the others down; packed alone, it fails alone, and its sender is told.
"""

from __future__ import annotations

import logging
import pickle
from typing import Any

from ironcliw.errors import RequestError

logger = logging.getLogger(__name__)

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


class Packed:
    """A pickled value."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self.data,)


def pack(value: Any, what: str) -> Any:
    """The value itself where it is a number, a text or bytes; else `Packed`.

    Args:
        value: anything.
        what: how an error calls it.

    Raises:
        RequestError: it cannot be pickled.
    """
    if type(value) in _PLAIN:
        return value
    try:
        if type(value).__module__ != "__main__":
            return Packed(pickle.dumps(value, protocol=5))
    except (pickle.PicklingError, TypeError, AttributeError):
        logger.debug("%s is pickled by cloudpickle", type(value).__name__)
    from ray import cloudpickle  # for such values alone: an agent's module needs no Ray

    try:
        # knows functions and classes that were written in a script, and sends them along
        return Packed(cloudpickle.dumps(value))  # type: ignore[no-untyped-call]
    except Exception as error:  # boundary: whatever the __reduce__ of some class raises
        raise RequestError(
            f"{what} cannot be sent to another process: {type(value).__name__} "
            f"({error}); send values that can be pickled: numbers, texts, lists, dicts, arrays",
            param="body",
        ) from error


def unpack(value: Any) -> Any:
    """What `pack` was given.

    Raises:
        RequestError: its class cannot be loaded in this process.
    """
    if type(value) is not Packed:
        return value
    try:
        return pickle.loads(value.data)
    except Exception as error:  # boundary: whatever the unpickling of some class raises
        raise RequestError(
            f"a value that was sent cannot be read here: {type(error).__name__}: {error}; its "
            "class must be importable on both sides",
            param="body",
        ) from error
