"""The digest that a learned policy carries: it is of numbers, not of their names alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rl import features, greedy, schema
from rl.schema import DIGEST, digest


def test_whoever_changes_a_feature_or_a_cost_has_to_train_anew() -> None:
    # a policy's file carries it: who changes this line says so in CHANGELOG.md
    assert DIGEST.startswith("38df573d")
    assert digest() == DIGEST


def _changed(function: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *given, **named: change(function(*given, **named))


@pytest.mark.parametrize(
    ("place", "name", "change"),
    [
        (features, "_log", lambda found: 1.001 * found),
        (features, "RESERVE_GB", 1.6),
        (schema, "SCHEMA", (*features.SCHEMA, "mood")),
        (greedy.Greedy, "_loss", lambda found: 1.01 * found),
        (greedy.Greedy, "_until_memory", lambda found: found + 1.0),
        (greedy, "RESERVE_GB", 11.0),
    ],
)
def test_another_number_is_another_digest(
    place: Any, name: str, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = getattr(place, name)
    monkeypatch.setattr(place, name, _changed(before, change) if callable(change) else change)
    assert digest() != DIGEST
