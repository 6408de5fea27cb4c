"""The default policy, masks, and what is refused of a policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from actors.routing import (
    LOCAL,
    RULES,
    SPOT,
    Choice,
    Option,
    PlacementPolicy,
    RouterPolicy,
    checked,
    load_policy,
    mask_of,
    options_of,
)
from ironcliw.errors import SettingsError, UnavailableError

BOTH = options_of(has_cloud=True, ready=True)
AN_HOUR = 3600.0


def chosen(options: Sequence[Option] = BOTH, place: str = "any", **features: float) -> str:
    mask = mask_of(place, options)
    return options[PlacementPolicy().decide(features, options, mask).index].name


@pytest.mark.parametrize(
    ("features", "place"),
    [
        ({"memory_gb": 12, "expected_seconds": AN_HOUR, "free_ram_gb": 64}, SPOT),
        ({"memory_gb": 12, "expected_seconds": 600, "free_ram_gb": 64}, LOCAL),
        ({"memory_gb": 8, "expected_seconds": AN_HOUR, "free_ram_gb": 64}, LOCAL),
        ({"memory_gb": 6, "free_ram_gb": 10}, SPOT),
        ({"memory_gb": 6, "free_ram_gb": 10.1}, LOCAL),
        ({"free_ram_gb": 3}, LOCAL),
        ({"ram_percent": 85}, SPOT),
        ({"ram_percent": 84.9}, LOCAL),
        ({}, LOCAL),
    ],
)
def test_the_rules_of_placement(features: dict[str, float], place: str) -> None:
    assert chosen(**features) == place


def test_a_busy_head_is_no_reason_to_buy_a_machine() -> None:
    assert chosen(options_of(has_cloud=True, ready=False), ram_percent=95) == LOCAL


@pytest.mark.parametrize("place", ["local", "private"])
def test_what_must_stay_at_home_stays(place: str) -> None:
    assert chosen(place=place, memory_gb=100, expected_seconds=AN_HOUR) == LOCAL


def test_what_must_go_goes() -> None:
    assert chosen(place="spot") == SPOT


def test_a_place_that_there_is_none_of() -> None:
    with pytest.raises(UnavailableError, match=r"place is 'spot' .* set cloud\.project"):
        mask_of("spot", options_of(has_cloud=False, ready=False))


def test_the_reason_is_told() -> None:
    choice = PlacementPolicy().decide({"memory_gb": 9, "free_ram_gb": 12}, BOTH, (True, True))
    assert choice.reasons == ("9 GB would leave less than 4 GB of the head free",)


class Coin:
    name = "coin"

    def decide(
        self, features: Mapping[str, float], options: Sequence[Option], mask: Sequence[bool]
    ) -> Choice:
        return Choice(1, 0.5)


def test_a_policy_is_loaded_by_its_name() -> None:
    assert load_policy(RULES).name == "placement"
    assert isinstance(Coin(), RouterPolicy)


def test_what_is_no_policy() -> None:
    with pytest.raises(SettingsError, match=r"'actors\.routing:LOCAL' is no RouterPolicy"):
        load_policy("actors.routing:LOCAL")
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_policy("actors.routing:Nothing")


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        (Choice(1), r"took option 1, and allowed are \['local'\]"),
        (Choice(2), "took option 2"),
        (Choice(-1), "took option -1"),
        (Choice(0, 0.0), "gave propensity 0;"),
        (Choice(0, math.nan), "gave propensity nan"),
        (Choice(0, 1.5), r"gave propensity 1\.5"),
    ],
)
def test_a_policy_that_breaks_the_protocol(choice: Choice, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        checked(choice, BOTH, (True, False), "coin")
