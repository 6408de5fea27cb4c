"""States of agents as the store keeps them."""

from __future__ import annotations

import json
from typing import Any

from ironcliw.errors import RequestError


def state_to_bytes(state: Any) -> bytes | None:
    """What `Agent.snapshot` gave, for the store.

    Raises:
        RequestError: it is neither bytes nor something that JSON can write.
    """
    if state is None:
        return None
    if isinstance(state, bytes | bytearray):
        return b"b" + bytes(state)
    try:
        return b"j" + json.dumps(state).encode()
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"snapshot() gave {type(state).__name__}, which cannot be stored ({error}); give bytes,"
            " or numbers, texts, lists and dicts"
        ) from error


def state_from_bytes(state: bytes) -> Any:
    """What `state_to_bytes` was given."""
    return state[1:] if state[:1] == b"b" else json.loads(state[1:])
