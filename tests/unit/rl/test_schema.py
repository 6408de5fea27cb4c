"""The digest that a learned policy carries: it is of numbers, not of their names alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rl import effects, features, greedy, queue_aware, schema, urgency
from rl.queue_aware import QueueAware
from rl.queue_parameters import QueueParameters
from rl.schema import DIGEST, digest, schema_of


def test_whoever_changes_a_feature_or_a_cost_has_to_train_anew() -> None:
    # a policy's file carries it: who changes this line says so in CHANGELOG.md
    assert DIGEST.startswith("f0415c4c")
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


def test_each_base_has_a_digest_of_its_own_whatever_its_parameters() -> None:
    assert schema_of(greedy.GreedyParameters(risk=0.9)) == DIGEST
    aware = schema_of(QueueParameters())
    assert aware == schema_of(QueueParameters(risk=0.9)) == digest(QueueAware()) != DIGEST


@pytest.mark.parametrize(
    ("place", "name", "change"),
    [
        (effects, "until_free", lambda found: (found[0] + 60.0, found[1])),
        (effects, "_MACHINE_GB", 32.0),
        (effects, "_SOON", 90.0),
        (schema, "EFFECTS", (*effects.EFFECTS, "mood")),
    ],
)
def test_another_effect_is_another_digest_for_whom_learned_from_it(
    place: Any, name: str, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = schema_of(QueueParameters(), has_effects=True)
    assert wanted != schema_of(QueueParameters())
    before = getattr(place, name)
    monkeypatch.setattr(place, name, _changed(before, change) if callable(change) else change)
    assert digest(QueueAware(), has_effects=True) != wanted
    assert digest() == DIGEST


@pytest.mark.parametrize(
    ("place", "name", "change"),
    [
        (QueueAware, "_rent", lambda found: 2.0 * found + 0.001),
        (QueueAware, "_ahead", lambda found: found + 100.0),
        (queue_aware, "ends_of_others", lambda found: [one * one for one in found]),
        (queue_aware, "shared_seconds", lambda found: found + 1.0),
        (urgency.Urgency, "of", lambda found: -found),
    ],
)
def test_other_costs_of_the_queue_aware_policy_are_another_digest(
    place: Any, name: str, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, _changed(getattr(place, name), change))
    assert digest(QueueAware()) != schema_of(QueueParameters())
    assert digest() == DIGEST, "the greedy policy knows nothing of it"
