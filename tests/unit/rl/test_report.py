"""The report: the same bytes from the same seed, goals that say what is so, work that goes on."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import routing_report
from ironcliw.errors import DataError, SettingsError
from rl.evaluate import BASE
from rl.neural import Learned
from rl.parameters import load_parameters
from rl.policy_file import save_policy
from rl.report import command, contestants, plan, runs
from rl.report.board import Board, median_of
from rl.report.contestants import CLAIRVOYANT, LITERAL, RULE_NAMES, Valuing, tuned
from rl.report.goals import Verdict, verdicts
from rl.report.page import page
from rl.report.plan import Options, Plan
from rl.report.runs import Store, columns_of, run_all
from rl.report.speed import Speed, live_seconds
from rl.report.speed import verdicts as of_time
from rl.report.timeline import AT_HOME, record
from rl.simulator import simulate
from rl.statistics import Interval, Resampling, paired_ratio
from rl.traces import ARRIVALS, GRAPHS
from rl.view import HOME, KEEP
from rl.workload import make_day
from tests.unit.rl.made_days import Prefer, made_day, step
from tests.unit.rl.made_policies import PARAMETERS, made_policy

ROOT = Path(__file__).parents[3]
LIGHT = ROOT / "rl" / "regimes" / "light.toml"
FEW = Options(
    regimes=(LIGHT,), days=4, clairvoyant=1, evaluations=4, frontier=2, processes=1, split="train"
)


def test_an_interval_of_resampled_means_is_the_paired_bootstrap() -> None:
    random = np.random.default_rng(2)
    base = np.exp(random.normal(1.0, 0.8, 80))
    own = base * np.exp(random.normal(-0.1, 0.2, 80))
    drawn = Resampling(80, seed=4)
    found = Interval.of(drawn.means(own) / drawn.means(base))
    other = paired_ratio(own.tolist(), base.tolist(), seed=9)
    assert found.mean == pytest.approx(other.mean)
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.005)


def test_days_that_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="0 days cannot be resampled; give at least one"):
        Resampling(0)
    with pytest.raises(ValueError, match="2 figures for 3 days; give the same days"):
        Resampling(3).means([1.0, 2.0])


def _columns(cost: list[float], **others: float) -> dict[str, np.ndarray]:
    names = {"met": 0.8, "dollars": 0.2, "waiting": 1.0, "misses": 0.1, "bound": 0.1}
    names |= {
        "breaches": 0.0,
        "misplaced": 0.0,
        "out_of_memory": 0.0,
        "flow_p50": 60.0,
        "flow_p95": 600.0,
    }
    values = {name: np.full(len(cost), value) for name, value in {**names, **others}.items()}
    return {"cost": np.array(cost), **values}


def _board(ours: float, *, learned: tuple[str, ...] = ("learned a",), **figures: float) -> Board:
    """Two regimes in which the base costs 2 and 4 USD, the rules twice that, the search half."""
    table, known = {}, {}
    for regime, base in (("calm", 2.0), ("wild", 4.0)):
        days = [base * factor for factor in (0.5, 1.0, 1.5, 1.0)]
        policies = {BASE: _columns(days)}
        policies |= {name: _columns([2 * day for day in days], met=0.6) for name in RULE_NAMES}
        policies |= {name: _columns([ours * day for day in days], **figures) for name in learned}
        table[regime] = policies
        known[regime] = {
            name: {column: values[:2] for column, values in one.items()}
            for name, one in policies.items()
        }
        known[regime][CLAIRVOYANT] = _columns([0.5 * day for day in days[:2]])
    return Board(4, table, known, learned)


def test_a_policy_that_is_good_enough_meets_every_goal() -> None:
    found = verdicts(_board(0.85, met=0.83))
    assert [one.met for one in found] == [True] * len(found)
    by_name = {one.what: one.figure for one in found}
    assert by_name[f"mean J below {BASE}"] == "15.0 % [15.0, 15.0]"
    assert by_name[f"mean J below {LITERAL[0]}"].startswith("57.5 %")
    assert by_name[f"gap from {BASE} to clairvoyant closed"] == "30.0 % [30.0, 30.0]"
    assert by_name[f"deadlines kept, beside {BASE}"] == "+3.0 points [+3.0, +3.0]"


@pytest.mark.parametrize(
    ("ours", "figures", "missed"),
    [
        (0.93, {"met": 0.83}, [f"mean J below {BASE}", "gap"]),
        (1.04, {"met": 0.83}, [f"mean J below {BASE}", "worst regime", "gap"]),
        (0.85, {"met": 0.79}, [f"deadlines kept, beside {BASE}"]),
        (0.85, {"met": 0.83, "dollars": 0.22}, ["USD for machines"]),
        (0.85, {"met": 0.83, "breaches": 1.0}, ["days above the cap"]),
        (0.85, {"met": 0.83, "misplaced": 1.0}, ["steps placed where memory ran out"]),
        (1.5, {"met": 0.83}, [f"mean J below {one}" for one in (*LITERAL, BASE)] + ["wor", "gap"]),
    ],
)
def test_each_goal_can_be_missed(ours: float, figures: dict[str, float], missed: list[str]) -> None:
    found = [one.what for one in verdicts(_board(ours, **figures)) if one.met is False]
    assert len(found) == len(missed)
    assert all(one.startswith(start) for one, start in zip(found, missed, strict=True))


def test_without_a_learned_policy_its_goals_are_not_run() -> None:
    found = verdicts(_board(0.0, learned=()))
    not_run = [one.what for one in found if one.met is None]
    assert not_run == [
        f"mean J below {BASE}",
        f"worst regime (calm), J above {BASE}",
        f"gap from {BASE} to clairvoyant closed",
        f"deadlines kept, beside {BASE}",
        f"USD for machines by that of {BASE}",
    ]


def test_policies_that_are_alike_on_every_day_are_told() -> None:
    board = _board(0.9)
    assert board.alike("calm") == [RULE_NAMES]
    board.all_days["calm"][RULE_NAMES[0]]["cost"][0] += 0.01
    assert board.alike("calm") == [RULE_NAMES[1:]]
    assert board.alike("wild") == [RULE_NAMES]
    made = replace(Plan.of(FEW), options=replace(FEW, days=4, clairvoyant=2))
    text = page(made, board, {}, {}, [])
    assert f"The same on every day: {', '.join(RULE_NAMES[1:])}." in text


def test_the_median_seed_is_ours() -> None:
    board = _board(1.0, learned=("a", "b", "c"))
    for regime in board.regimes:
        for name, factor in (("a", 0.9), ("b", 0.7), ("c", 1.2)):
            board.all_days[regime][name]["cost"] *= factor
    assert board.ours == "a"
    assert median_of(board, ["a", "b"]) == "a", "of two the dearer one"


def test_the_goals_of_time() -> None:
    quick = Speed(1e-5, 2e-5, 1e-3, 1000, 3e-4, 9e-4, 20000.0, has_torch=False)
    assert [one.met for one in of_time(quick, [12.0, 61.0])] == [True, True, True, False]
    slow = Speed(1e-4, 2e-3, 1e-2, 1000, 3e-4, 2e-3, 4000.0, has_torch=False)
    assert [one.met for one in of_time(slow, [])] == [False, False, False, None]
    heavy = Speed(1e-5, 2e-5, 1e-3, 1000, 3e-4, 9e-4, 20000.0, has_torch=True)
    decision, live, *_ = of_time(heavy, [1.0])
    assert decision.met is False and "torch imported" in decision.figure
    assert live.met is False and live.figure == "0.900 ms (median 0.300)"


@pytest.mark.parametrize("kind", ["shipped", "tuned", "learned"])
def test_decisions_of_the_running_system_are_timed(kind: str, tmp_path: Path) -> None:
    path: Path | None = None
    if kind == "tuned":
        path = tmp_path / "aware.toml"
        path.write_text('policy = "queue-aware"\n[parameters]\nration = 0.75\n')
    elif kind == "learned":
        path = tmp_path / "one.npz"
        save_policy(path, made_policy(1))
    placed: list[str] = []
    found = live_seconds(path, 5, lambda placement: placed.append(placement.details["by"]))
    assert len(found) == 5 and all(0 < one < 1 for one in found)
    assert set(placed) == {"learned" if kind == "learned" else "tuned"}


def test_a_unit_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, store, told = Plan.of(FEW), Store(tmp_path), []
    units = made.units([made.base], 4, block=2)
    run_all(units, store, None, 1, told.append)
    assert told[0].startswith("2 of 2 parts are to be run, about ")
    first = columns_of(units, store)
    assert len(first["cost"]) == 4

    def never(unit: object, data: object) -> list[dict[str, float]]:
        raise AssertionError(f"{unit} is run again")

    monkeypatch.setattr(runs, "run_unit", never)
    run_all(units, store, None, 1, told.append)
    assert (columns_of(units, store)["cost"] == first["cost"]).all()
    assert columns_of(units[::-1], store)["cost"].tolist() == first["cost"].tolist()
    with pytest.raises(AssertionError, match="is run again"):  # other days are other work
        run_all(made.units([made.base], 3, block=2), store, None, 1, told.append)
    absent = made.units([made.search], 1)
    with pytest.raises(DataError, match="clairvoyant was not run on days 0 and on of light"):
        columns_of(absent, store)


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    made = Plan.of(FEW)
    units = made.units([made.base], 4, block=2)
    for name, processes in (("one", 1), ("two", 2)):
        run_all(units, Store(tmp_path / name), None, processes, lambda text: None)
    one, two = (columns_of(units, Store(tmp_path / name)) for name in ("one", "two"))
    assert all((one[name] == two[name]).all() for name in one)


def test_a_damaged_result_is_told(tmp_path: Path) -> None:
    made, store = Plan.of(FEW), Store(tmp_path)
    [unit] = made.units([made.base], 1)
    (tmp_path / f"{unit.key}.json").write_text("{")
    with pytest.raises(DataError, match=rf"{unit.key}.json is damaged .*; delete it"):
        store.read(unit)


def test_another_value_of_time_is_another_contestant() -> None:
    base = replace(Plan.of(FEW).base, parameters=PARAMETERS)
    hasty = base.at(10.0)
    assert hasty.identity != base.identity and hasty.name == f"{BASE} at 10"
    assert isinstance(hasty.policy(), Valuing)
    day = made_day([(0.0, [step(400, 8.0), step(400, 8.0)])])
    calm, quick = simulate(day, base.at(0.01).policy()), simulate(day, hasty.policy())
    assert quick.dollars > calm.dollars and quick.flow_p50 < calm.flow_p50


def test_a_days_record_tells_where_each_step_was() -> None:
    day = made_day([(100.0, [step(10), step(20, parents=[0])])])
    found = record(day, Prefer(lambda view: (HOME, KEEP)))
    assert [(one.place, one.begin, round(one.end)) for one in found.spans] == [
        (AT_HOME, 100.0, 110),
        (AT_HOME, pytest.approx(110.0), 130),
    ]
    assert (found.lives, found.missed, found.arrivals) == ([], [], [100.0])


def test_a_record_changes_nothing_and_ends_with_the_bill(tmp_path: Path) -> None:
    regime = Plan.of(FEW).regimes[0]
    day = make_day(regime, 1, "train", 0)
    policy = tuned(Plan.of(FEW).base.parameters).policy()
    found, plain = record(day, policy), simulate(day, policy)
    assert found.outcome == plain
    hours = sum(life.end - life.begin for life in found.lives) / 3600.0
    assert hours == pytest.approx(plain.machine_hours, abs=len(found.lives) * 60 / 3600)
    assert len(found.missed) == round((1 - plain.met) * plain.workflows)
    for one in found.spans:
        assert not any(
            other is not one and other.place == one.place and other.row == one.row
            and other.begin < one.end and one.begin < other.end
            for other in found.spans
        )  # fmt: skip


def _report(tmp_path: Path, name: str, work: str) -> tuple[str, dict[str, bytes]]:
    out = tmp_path / name / "routing.md"
    out.parent.mkdir()
    command.write_report(FEW, out, tmp_path / work)
    pictures = {path.name: path.read_bytes() for path in (tmp_path / name / "routing").iterdir()}
    return out.read_text().partition("## Times")[0], pictures


def test_the_same_seed_gives_the_same_document_and_pictures(tmp_path: Path) -> None:
    first = _report(tmp_path, "first", "a")
    assert _report(tmp_path, "second", "b") == first
    text, pictures = first
    assert sorted(pictures) == ["day.svg", "frontier.svg", "regret.svg"]
    assert all(content.startswith(b"<?xml") for content in pictures.values())
    assert "No learned policy was given" in text
    assert f"| {BASE} |" in text and "| rule B: large and long |" in text
    for name in ("day.svg", "frontier.svg", "regret.svg"):
        assert f"](routing/{name})" in text


def test_the_options_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    quick = command.options_of(parser.parse_args(["--quick", "--days", "5"]))
    assert (quick.days, quick.clairvoyant, quick.frontier) == (5, 2, 5)
    whole = command.options_of(parser.parse_args([]))
    assert (whole.days, whole.clairvoyant, whole.split, whole.seed) == (400, 24, "test", 1)
    with pytest.raises(SystemExit):
        parser.parse_args(["--days", "0"])


@pytest.mark.parametrize("text", ['{"policies": {}}', "[1]", "{", '{"seconds": "long"}'])
def test_what_lies_beside_a_policy_may_be_something_else(text: str, tmp_path: Path) -> None:
    """Such as what `python -m rl evaluate --json one.json` writes."""
    for name in ("one", "two"):
        save_policy(tmp_path / f"{name}.npz", made_policy())
    (tmp_path / "one.json").write_text('{"seconds": 90.0}')
    (tmp_path / "two.json").write_text(text)
    policies = (tmp_path / "one.npz", tmp_path / "two.npz")
    made = Plan.of(Options(regimes=(LIGHT,), policies=policies))
    assert command.training_minutes(made) == [1.5]


def test_a_policy_file_that_is_absent_ends_before_the_work(tmp_path: Path) -> None:
    options = Options(regimes=(LIGHT,), policies=(tmp_path / "gone.npz",))
    with pytest.raises(SettingsError, match=r"gone.npz cannot be read"):
        Plan.of(options)


def test_what_is_asked_as_json(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["--regime", str(LIGHT), "--days", "2", "--clairvoyant", "1", "--evaluations", "2"]
    words += ["--frontier", "1", "--processes", "1", "--work", str(tmp_path / "work")]
    arguments = parser.parse_args([*words, "--json", str(tmp_path / "goals.json")])
    goals = command.make(arguments, tmp_path / "out.md")
    page = json.loads((tmp_path / "goals.json").read_text())
    assert {"what", "goal", "figure", "met"} == set(page[0])
    assert [one["what"] for one in page] == [one.what for one in goals]
    assert "decision p99, no torch imported" in {one.what for one in goals}


def test_a_goal_of_time_that_is_missed_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goals = [Verdict("mean cost", "lower", "yes", True), Verdict("time", "<= 1 ms", "2 ms", False)]
    monkeypatch.setattr(command, "make", lambda *given: goals)
    words = ["--out", str(tmp_path / "out.md")]
    assert routing_report.main(words) == 1
    goals.pop()
    assert routing_report.main(words) == 0


@pytest.mark.parametrize("kind", ["baseline", "learned"])
def test_all_sources_that_decide_are_in_the_key(kind: str) -> None:
    needed = "rl.baselines, rl.bounds, rl.uniform_progress, rl.workload"
    needed += ", rl.clairvoyant, rl.neural, rl.parameters" if kind == "learned" else ""
    code = f"import sys, {needed}\nwhere = ('rl.', 'cluster.')\n"
    code += "print(*(name for name in sys.modules if name.startswith(where)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    files = {f"{name.replace('.', '/')}.py" for name in done.stdout.split()}
    more = plan._DECIDING_LEARNED if kind == "learned" else ()
    ours = {f"rl/{name}.py" for name in (*plan._DECIDING, *more)}
    assert files == {*ours, *plan._DECIDING_OUTSIDE}


def test_other_traces_are_another_key(tmp_path: Path) -> None:
    keys = []
    for name, text in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        for file in (ARRIVALS["azure_conv"], GRAPHS):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(text)
        replay = LIGHT.with_name("replay.toml")
        made = Plan.of(replace(FEW, regimes=(replay, LIGHT), data=tmp_path / name))
        keys.append([unit.key for unit in made.units([made.base], 1)])
    assert keys[0] == keys[2], "wherever the folder lies"
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1], "this one needs none"
    gone = Plan.of(replace(FEW, regimes=(replay,), data=tmp_path / "gone"))
    with pytest.raises(DataError, match=r"cannot be read; set bench.data to the data folder"):
        gone.units([gone.base], 1)


def test_a_tuned_policy_is_compared_as_a_learned_one_is(tmp_path: Path) -> None:
    path = tmp_path / "aware.toml"
    path.write_text('policy = "queue-aware"\n[parameters]\nration = 0.75\n')
    one = contestants.learned([path], load_parameters())[0]
    assert (one.name, one.policy().name) == ("learned aware", "learned aware")
    path.write_text('policy = "queue-aware"\n[parameters]\nration = 0.5\n')
    assert contestants.learned([path], load_parameters())[0].digest != one.digest
    path.write_text('policy = "queue-aware"\n[parameters]\nluck = 0.5\n')
    with pytest.raises(SettingsError, match="no parameter 'luck'"):
        contestants.learned([path], load_parameters())


def test_files_that_decide_as_their_base_does_are_run_once(tmp_path: Path) -> None:
    policies = {"seed0": made_policy(), "seed1": made_policy(), "own": made_policy(3)}
    paths = tuple(tmp_path / f"{name}.npz" for name in policies)
    for path, policy in zip(paths, policies.values(), strict=True):
        save_policy(path, replace(policy, training={"of": path.stem}))
    made, store = Plan.of(replace(FEW, policies=paths)), Store(tmp_path / "work")
    told: list[str] = []
    units = made.units(made.learned, 2)
    run_all(units, store, None, 1, told.append)
    assert told[0].startswith("2 of 2 parts are to be run")
    first, second, own = ([one] for one in units)
    assert (columns_of(first, store)["cost"] == columns_of(second, store)["cost"]).all()
    assert (columns_of(own, store)["cost"] != columns_of(first, store)["cost"]).any()
    assert len(made.search.starts) == 2, "nor does the search begin with both"
    day = make_day(made.regimes[0], FEW.seed, FEW.split, 0)
    assert simulate(day, Learned(paths[0])).cost == columns_of(second, store)["cost"][0]
