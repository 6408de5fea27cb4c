"""Reads definitions; those that are equal are read once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from actors.workflow.definition_reader import read
from actors.workflow.graph import Definition
from actors.workflow.tasks import REFERENCE_KEY
from ironcliw.errors import RequestError, RequestTooLargeError
from ironcliw.schemas.workflows import WorkflowForm

__all__ = ["Definition", "define"]

MAX_BYTES = 512 * 1024
"""Of a definition, as compact JSON."""
CACHED = 256
"""Definitions that are kept."""

_cache: OrderedDict[bytes, Definition] = OrderedDict()
# submissions read on the event loop, workflows from the store in a thread of the journal
_lock = threading.Lock()


def define(source: Mapping[str, Any] | WorkflowForm) -> Definition:
    """Checks a definition; one that equals an earlier one costs only its digest.

    Args:
        source: As YAML or JSON has it.

    Raises:
        RequestError: A rule is broken: the message names the step and the field, `param` is their
            path.
        RequestTooLargeError: It is too long.
    """
    if isinstance(source, WorkflowForm):
        source = source.model_dump(by_alias=True, exclude_unset=True)
    text = _text(source)
    digest = hashlib.sha256(text).digest()
    found = _cached(digest)
    if found is None:
        found = read(json.loads(text), digest.hex())
        with _lock:
            _cache[digest] = found
            if len(_cache) > CACHED:
                _cache.popitem(last=False)
    return found


def _cached(digest: bytes) -> Definition | None:
    with _lock:
        found = _cache.get(digest)
        if found is not None:
            _cache.move_to_end(digest)
        return found


def _text(source: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(source, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"the definition is not JSON ({error}): it may hold objects, lists, texts, finite "
            "numbers, true, false and null",
            param="definition",
        ) from error
    if len(text) > MAX_BYTES:
        raise RequestTooLargeError(
            f"the definition has {len(text)} bytes, the most is {MAX_BYTES}: give data as inputs, "
            "or by where it is",
            param="definition",
        )
    if f'"{REFERENCE_KEY}":' in text:
        raise RequestError(
            f"the definition has a key {REFERENCE_KEY!r}, which is kept for results by reference",
            param="definition",
        )
    return text.encode()
