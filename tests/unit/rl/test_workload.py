"""Days: the same for everyone, apart by split, and not changed by what a policy does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import DataError
from rl.draws import Draws, seed_of
from rl.regime import Regime, load_regime
from rl.traces import Split
from rl.workload import DAY, make_day

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
NAMES = ("light", "busy", "high_hazard", "bad_estimates", "bursty")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def regime(name: str) -> Regime:
    return load_regime(FOLDER / f"{name}.toml")


def test_a_draw_is_of_its_keys_alone() -> None:
    draws = Draws(7)
    first = draws.uniform(1, 2)
    draws.uniform(9)
    assert draws.uniform(1, 2) == first == Draws(7).uniform(1, 2)
    assert len({Draws(7).stream(name).uniform(1) for name in ("boot", "speed", "stock")}) == 3
    assert len({Draws(7).uniform(a, b) for a in range(30) for b in range(30)}) == 900


def test_seeds_do_not_change_with_the_release() -> None:
    # days of a published evaluation must be drawn alike by everybody
    assert seed_of("day", "light", 0, "test", 3) == 0x761EB018B96227C1
    assert Draws(1).uniform(2, 3) == pytest.approx(0.03699137626527199, abs=1e-15)


def test_draws_have_the_moments_of_their_distributions() -> None:
    draws, count = Draws(1), 4000
    normal = [draws.normal(key) for key in range(count)]
    assert sum(normal) / count == pytest.approx(0.0, abs=0.05)
    assert sum(one * one for one in normal) / count == pytest.approx(1.0, abs=0.06)
    assert sum(draws.exponential(3.0, key) for key in range(count)) / count == pytest.approx(
        3.0, rel=0.05
    )
    assert {draws.integer(2, 4, key) for key in range(count)} == {2, 3, 4}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_day_twice(name: str) -> None:
    one, other = (make_day(regime(name), 5, "test", 2) for _ in range(2))
    assert one.workflows == other.workflows
    assert (one.shocks, one.user_gb, one.outages) == (other.shocks, other.user_gb, other.outages)
    assert one.boot_seconds(0, 1, 5000.0) == other.boot_seconds(0, 1, 5000.0)


@given(seed=st.integers(0, 1000), number=st.integers(0, 1000))
def test_no_two_splits_seeds_or_numbers_share_a_day(seed: int, number: int) -> None:
    made = [make_day(regime("light"), seed, split, number) for split in SPLITS]
    made.append(make_day(regime("light"), seed + 1, "test", number))
    made.append(make_day(regime("light"), seed, "test", number + 1))
    assert len({day.workflows for day in made}) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_day_is_within_its_regimes_ranges(name: str) -> None:
    own = regime(name)
    counts = []
    for number in range(40):
        day = make_day(own, 0, "train", number)
        counts.append(len(day.workflows))
        low, high = own.home.user_gb
        assert all(low <= gb <= high for _, gb in day.user_gb)
        low, high = own.spot.hazard_per_hour
        assert low <= day.hazard_per_hour <= high
        assert [one.arrival for one in day.workflows] == sorted(
            one.arrival for one in day.workflows
        )
        numbers = [step.number for one in day.workflows for step in one.steps]
        assert numbers == list(range(len(numbers)))
        for one in day.workflows:
            assert 0 <= one.arrival < DAY
            assert one.deadline > one.arrival + one.shortest
            for step in one.steps:
                assert all(parent < step.index for parent in step.parents)
                assert 0 < step.memory_gb <= own.spot.memory_gb
                assert step.memory_mean_gb <= step.memory_p95_gb <= own.spot.memory_gb
    low, high = own.arrivals.workflows_per_day
    assert low * 0.7 < sum(counts) / len(counts) < high * 1.3


def test_a_month_leaves_the_day_and_its_drain_their_money() -> None:
    costs = regime("busy").costs
    spent = [make_day(regime("busy"), 3, "train", number).month_spent for number in range(40)]
    assert max(spent) <= costs.month_dollars - 2 * costs.day_dollars
    assert max(spent) - min(spent) > costs.month_dollars / 2


def test_a_regime_of_traces_needs_the_data_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"AzureLLM.*cannot be read; set bench.data .* fetch-data"):
        make_day(regime("replay"), 0, "test", 0, data=tmp_path)
