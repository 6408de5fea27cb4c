"""Regime files: what they may say, and what the project's own say."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import SettingsError
from rl.regime import Regime, load_regime, regime_of

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
SHIPPED = sorted(FOLDER.glob("*.toml"))


def test_the_shipped_regimes_are_those_that_were_hashed() -> None:
    # what a policy is tested on must not change after it was tuned: a new figure is a new file
    wanted = dict(
        reversed(line.split()) for line in (FOLDER / "SHA256SUMS").read_text().splitlines()
    )
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SHIPPED}
    assert found == wanted


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_regime_is_valid_and_named_as_its_file(path: Path) -> None:
    assert load_regime(path).name == path.stem


def test_some_regimes_are_held_out() -> None:
    trained = {path.stem for path in SHIPPED if load_regime(path).trained}
    assert trained == {"light", "busy", "high_hazard"}


def test_every_regime_has_the_costs_of_the_goals() -> None:
    for path in SHIPPED:
        costs = load_regime(path).costs
        assert (costs.hour_of_priority, costs.miss, costs.day_dollars) == (0.30, 0.10, 0.40)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"arrivals": {"workflows_per_day": [9, 3]}},
            r"the range \[9, 3\] ends before",
        ),
        ({"arrivals": {"workflows_per_day": [0, 3]}}, r"\[0, 3\] must lie above 0"),
        ({"arrivals": {"workflows_per_day": [1, 9e9]}}, "above 5000"),
        ({"arrivals": {"active_hours": [20, 26]}}, r"\[20, 26\] must be a part of 0 to 24"),
        ({"spot": {"hazard_per_hour": [-1, 0.5]}}, r"\[-1, 0.5\] must not lie below 0"),
        ({"spot": {"stockout": [0.2, 1.5]}}, "must lie between 0 and 1"),
        ({"spot": {"hazard_per_hour": [1, 61]}}, "hazard_per_hour above 60 would leave no machine"),
        ({"costs": {"hour_of_priority": 0.0}}, "costs.hour_of_priority: .* greater than 0"),
        ({"spot": {"machines": 4}}, "spot.machines: .* less than or equal to 3 .given 4."),
        ({"spot": {"cores": float("nan")}}, "spot.cores: .*finite"),
        ({"home": {"memory_gb": 8.0}}, "user_gb up to 9.5 leaves less than 2 GB of memory_gb 8"),
        ({"costs": {"day_dollars": -0.4}}, "costs.day_dollars: .* greater than or equal to 0"),
        ({"mix": {"answer": 0.0}}, "at least one share must be above 0"),
        ({"mix": {"dance": 1.0}}, "mix.dance"),
        ({"hazard": 0.5}, "hazard: Extra inputs are not permitted"),
        ({"name": "Very Busy"}, "name: String should match"),
    ],
)
def test_an_impossible_value_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=rf"^mine.toml is no regime: .*{message}"):
        regime_of({"name": "mine", **values}, "mine.toml")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"name: Field required; spot.price: Extra"):
        regime_of({"spot": {"price": 3}}, "mine.toml")


def test_an_absent_file_and_one_that_is_no_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone.toml cannot be read \(No such file"):
        load_regime(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("name = light")
    with pytest.raises(SettingsError, match=r"bad.toml is not TOML: Invalid value"):
        load_regime(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(SettingsError, match=r"bytes.toml is not TOML: .*utf-8"):
        load_regime(tmp_path / "bytes.toml")


def test_the_digest_is_of_the_values_not_of_the_text() -> None:
    spelled = tomllib.loads('name = "mine"\n[costs]\nmiss = 0.1 # the default\n')
    assert regime_of(spelled, "a").digest() == Regime(name="mine").digest()
    assert Regime(name="other").digest() != Regime(name="mine").digest()
