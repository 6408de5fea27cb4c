"""Which requests go to a canary. Pure.

A request's key is hashed together with the alias, and the hash is a number from 0 to 1: below the
share it goes to the canary. So the same key goes to the same side each time, on every replica and
after restarts, and a share that grows keeps those that it had.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

_USERS = ("user", "safety_identifier")
_CONTENTS = ("messages", "prompt", "input", "inputs")


def goes_to_canary(alias: str, key: bytes, percent: float) -> bool:
    """Whether a request is in the share.

    Args:
        alias: Its alias: another one cuts the same keys otherwise.
        key: Of the request.
        percent: From 0 to 100.
    """
    digest = hashlib.sha256(alias.encode() + b"\0" + key).digest()
    return int.from_bytes(digest[:8], "big") < percent / 100 * 2**64


def request_key(request: BaseModel) -> bytes:
    """What is stable about a request, by the first of these that it has.

    1. `user`, else `safety_identifier`: everything that one of them asks goes to one side.
    2. Of a conversation its beginning, up to the first message of the user: later turns and
       repeated requests go where the first one went.
    3. The text, or texts, that it is about.
    """
    for name in _USERS:
        if user := getattr(request, name, None):
            return f"user {user}".encode()
    content: Any = next(
        (getattr(request, name) for name in _CONTENTS if hasattr(request, name)), ""
    )
    if isinstance(content, list):
        content = [_plain(item) for item in _beginning(content)]
    return json.dumps(content, sort_keys=True, default=str).encode()


def _beginning(items: list[Any]) -> list[Any]:
    for count, item in enumerate(items, 1):
        if getattr(item, "role", None) == "user":
            return items[:count]
    return items


def _plain(item: Any) -> Any:
    return item.model_dump(mode="json") if isinstance(item, BaseModel) else item
