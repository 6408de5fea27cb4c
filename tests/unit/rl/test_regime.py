"""Regime files: what they may say, and what the project's own say."""

from __future__ import annotations

import hashlib
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ironcliw.errors import SettingsError
from rl.greedy import Greedy
from rl.regime import Regime, load_regime, regime_of
from rl.simulator import simulate
from rl.workload import make_day

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
        ({"spot": {"slowdown": [0.001, 1]}}, r"\[0.001, 1\] must not go below 0.01"),
        ({"spot": {"megabytes_per_second": [1e-9, 1]}}, "must not go below 0.01"),
        ({"spot": {"boot_seconds": [90, 9000]}}, r"\[90, 9000\] must not go above 7200"),
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


def _fields() -> list[tuple[str, str, bool]]:
    """(section, field, whether it is a range) of every number that a regime file may hold."""
    found = []
    for section, info in Regime.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name in kind.model_fields:
                default = getattr(getattr(Regime(name="any"), section), name)
                if not isinstance(default, str):
                    found.append((section, name, isinstance(default, tuple)))
    return found


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("wrong", [-1.0, NAN, INFINITE, -INFINITE, "many", None, 1e300])
@pytest.mark.parametrize(("section", "name", "is_range"), _fields(), ids=lambda one: str(one))
def test_no_field_takes_what_cannot_be(section: str, name: str, is_range: bool, wrong: Any) -> None:
    values = [[wrong, wrong]] if is_range else [wrong]
    if is_range:
        # at either end; and what is no pair
        values += [[wrong, 5.0], [0.5, wrong], [0.5], 0.5, [5.0, 0.5]]
    for value in values:
        with pytest.raises(SettingsError, match=rf"^mine.toml is no regime: .*{section}.*"):
            regime_of({"name": "mine", section: {name: value}}, "mine.toml")


@pytest.mark.parametrize(("section", "name", "is_range"), _fields(), ids=lambda one: str(one))
def test_the_ends_of_every_range_make_days_that_end(
    section: str, name: str, is_range: bool
) -> None:
    values = [_end(section, name, is_range, sign) for sign in (-1, 1)]
    for value in values:
        given: dict[str, Any] = {"name": "mine", "arrivals": {"workflows_per_day": [3, 4]}}
        given[section] = {**given.get(section, {}), name: value}
        if name == "workflows_per_day":
            given[section] = {name: [0.1, 20]}
        if name == "memory_gb" and section == "home" and value < 12:
            given[section]["user_gb"] = [0, 0]
        regime = regime_of(given, "mine.toml")
        outcome = simulate(make_day(regime, 0, "train", 0), Greedy())
        figures = list(outcome.as_dict().values())
        assert all(math.isfinite(one) for one in figures), (section, name, value)


def _end(section: str, name: str, is_range: bool, sign: int) -> Any:
    """The smallest or greatest value that a field takes, found by halving; the default within."""
    default = getattr(getattr(Regime(name="any"), section), name)
    middle = default[0 if sign < 0 else 1] if is_range else default

    def takes(one: float) -> bool:
        number = int(one) if isinstance(middle, int) else one
        if is_range:
            pair = [number, default[1]] if sign < 0 else [default[0], number]
        try:
            regime_of({"name": "mine", section: {name: pair if is_range else number}}, "a")
        except SettingsError:
            return False
        return True

    edge = 0.0 if sign < 0 else 1e300
    if takes(edge):
        good = edge
    else:
        good, bad = float(middle), edge
        for _ in range(80):
            half = (good + bad) / 2 if sign < 0 else math.sqrt(max(good, 1e-9) * bad)
            good, bad = (half, bad) if takes(half) else (good, half)
    good = int(good) if isinstance(middle, int) else good
    if not is_range:
        return good
    return [good, default[1]] if sign < 0 else [default[0], good]
