"""Pages of lists: `maxResults`, opaque tokens, and the scopes of an aggregated list."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.testing.api_errors import invalid

LARGEST_PAGE = 500
"""The most that Google puts on a page, and the default."""

Keyed = Sequence[tuple[tuple[str, str], Mapping[str, Any]]]
"""Resources with their zone and name, sorted by them."""


def page(items: Keyed, query: Mapping[str, str], largest: int) -> tuple[Keyed, str | None]:
    """The resources of one page, and the token of the next.

    A page can be shorter than `maxResults`: `largest` is the server's own bound. A token names the
    last resource shown, so that what is deleted meanwhile makes no gap.

    Raises:
        ApiError: 400, `maxResults` or `pageToken` cannot be read.
    """
    size = min(_max_results(query.get("maxResults", str(LARGEST_PAGE))), largest)
    token = query.get("pageToken")
    after = _read_token(token) if token else ("", "")
    rest = [item for item in items if item[0] > after]
    shown = rest[:size]
    return shown, _write_token(shown[-1][0]) if len(rest) > size else None


def scopes(shown: Keyed, zones: Sequence[str], member: str) -> dict[str, Any]:
    """The `items` of an aggregated list: every zone, those without results with a warning."""
    found: dict[str, Any] = {}
    for zone in zones:
        here = [resource for (where, _), resource in shown if where == zone]
        found[f"zones/{zone}"] = {member: here} if here else {"warning": _no_results(zone)}
    return found


def unreachable(zone: str) -> dict[str, Any]:
    """The scope of a zone that did not answer, in a list that may be partial."""
    message = f"The zone '{zone}' could not be reached. Its results are missing."
    return {"warning": _warning("UNREACHABLE", message, zone)}


def _no_results(zone: str) -> dict[str, Any]:
    message = f"There are no results for scope 'zones/{zone}' on this page."
    return _warning("NO_RESULTS_ON_PAGE", message, zone)


def _warning(code: str, message: str, zone: str) -> dict[str, Any]:
    data = [{"key": "scope", "value": f"zones/{zone}"}]
    return {"code": code, "message": message, "data": data}


def _max_results(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= LARGEST_PAGE:
        rule = f"Must be a number from 1 to {LARGEST_PAGE}."
        raise invalid("maxResults", text, rule)
    return int(text)


def _write_token(key: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _read_token(token: str) -> tuple[str, str]:
    try:
        zone, name = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, TypeError) as error:
        raise invalid("pageToken", token, "The page token is not valid.") from error
    return str(zone), str(name)
