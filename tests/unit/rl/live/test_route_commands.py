"""`ironcliw route`, as a person types it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

import rl
from actors.tables import actors_router_states as states
from ironcliw import console
from ironcliw.cli import main
from ironcliw.settings import load_settings
from ironcliw.store import Store
from rl.__main__ import _parser
from rl.calibration.files import load_fit
from rl.live.base import base_of, base_parameters
from rl.live.log import lines_of, read_log
from rl.live.nightly import known
from rl.parameters import load_parameters, load_tuned, written
from rl.policy import NumpyPolicy, policy_path
from rl.policy_file import PolicyFile, load_policy, save_policy
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from tests.unit.rl.live.logs import log_of
from tests.unit.rl.live.situations import policy_of
from tests.unit.rl.live.worlds import world

REGIMES = Path(rl.__file__).parent / "regimes"


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIW_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("IRONCLIW_ROUTING__POLICY", "rl.policy:NumpyPolicy")


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["route", *words])
    return int(caught.value.code or 0)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def policy_in(folder: Path, bias: float = 1.0) -> Path:
    path = folder / "mine.npz"
    save_policy(path, policy_of(bias, favourite=0))
    return path


def test_the_status_says_who_decides_and_that_nothing_is_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "routing" / "base.toml"
    own.parent.mkdir()
    own.write_text(written(QueueParameters(), {}, "a test"))
    monkeypatch.setenv("IRONCLIW_ROUTING__LOG_DECISIONS", "false")
    assert run("status") == 0
    shown = capsys.readouterr().out
    assert "elsewhere: queue-aware" in shown
    assert "routing.log_decisions is off: nothing is learned, and no policy can rise" in shown


def test_from_the_shadow_to_everywhere_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = policy_in(tmp_path)
    first = told(capsys, "promote", str(file))
    assert (first["stage"], first["policy"]) == ("shadow", load_policy(file).digest)
    assert load_policy(policy_path(tmp_path, first["policy"])).digest == first["policy"]
    stages = [told(capsys, "promote")["stage"] for _ in range(3)]
    assert stages == ["canary", "half", "default"]
    assert run("promote") == console.EXIT_BAD_REQUEST
    assert "decides everywhere already" in capsys.readouterr().err
    assert run("rollback") == 0
    assert (
        "stands at off, elsewhere the tuned policy decides (by its owner)"
        in capsys.readouterr().out
    )
    assert told(capsys, "rollback")["base"] == "rules"
    assert run("rollback") == console.EXIT_BAD_REQUEST
    assert "there is nothing below them" in capsys.readouterr().err
    assert told(capsys, "rollback", "--restore")["base"] == "tuned"


def test_rollback_writes_the_state_of_another_release_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("promote", str(policy_in(tmp_path)))
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store, store.write() as connection:
        connection.execute(update(states).values(state={"stage": "half", "mood": "good"}))
    for words in (("status",), ("promote",), ("promote", str(policy_in(tmp_path)))):
        assert run(*words) == console.EXIT_BAD_REQUEST
        assert "`ironcliw route rollback` writes it anew" in capsys.readouterr().err
    found = told(capsys, "rollback")
    assert (found["stage"], found["base"], found["policy"]) == ("off", "tuned", "")
    assert found["changes"][-1]["reason"] == "by its owner, in place of a state of another release"
    assert told(capsys, "promote", str(policy_in(tmp_path)))["stage"] == "shadow"


def test_status_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status") == 0
    lines = capsys.readouterr().out
    assert "learned policy none: off for 0.0 days, decides for 0%" in lines
    assert "fit: none yet, the shipped priors are believed" in lines
    assert "no night's work was done yet" in lines
    run("promote", str(policy_in(tmp_path)))
    run("promote")
    capsys.readouterr()
    assert run("status") == 0
    assert "canary for 0.0 days, decides for 10% of the low priority" in capsys.readouterr().out


def test_a_policy_that_is_none_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.npz"
    assert run("promote", str(file)) == console.EXIT_BAD_REQUEST
    assert "cannot be read" in capsys.readouterr().err
    content = bytearray(policy_in(tmp_path).read_bytes())
    content[len(content) // 2] ^= 0x01
    file.write_bytes(bytes(content))
    assert run("promote", str(file)) == console.EXIT_BAD_REQUEST
    assert told(capsys, "status")["standing"]["stage"] == "off"
    assert run("promote") == console.EXIT_BAD_REQUEST
    assert "no policy is installed; give its file" in capsys.readouterr().err


def test_another_setting_is_pointed_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONCLIW_ROUTING__POLICY", "actors.routing:PlacementPolicy")
    assert run("promote", str(policy_in(tmp_path))) == 0
    assert "set it to 'rl.policy:NumpyPolicy'" in capsys.readouterr().err


def test_the_log_is_written_and_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> str:
        async with world(tmp_path, NumpyPolicy(tmp_path)) as one:
            [found] = await one.complete(memory_gb=2.0, expected_seconds=30.0)
            return found

    workflow = asyncio.run(work())
    path = tmp_path / "log.jsonl"
    assert run("log", "--out", str(path)) == 0
    assert "1 decisions and 1 workflows in" in capsys.readouterr().err
    [decision] = read_log(path).decisions
    assert run("log", "--out", "-") == 0
    assert capsys.readouterr().out == path.read_text()
    assert run("explain", workflow) == 0
    lines = capsys.readouterr().out
    assert f"s attempt 1: home, by {base_of(base_parameters()).name}" in lines
    assert "a machine has room, and Ray would start it there" in lines
    assert told(capsys, "explain", decision.id)[0]["workflow_id"] == workflow
    assert run("explain", "nobody") == console.EXIT_BAD_REQUEST
    assert "no decision of 'nobody' is logged" in capsys.readouterr().err
    assert run("log", "--out", str(tmp_path / "no" / "folder")) == console.EXIT_BAD_REQUEST
    assert "cannot be written" in capsys.readouterr().err


def test_calibration_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines_of(log_of())), encoding="utf-8")
    page = told(capsys, "calibrate", "--log", str(path))
    assert page["steps"] == 504
    assert set(page["replay"]) >= {"machines, USD", "objective, USD"}
    own = tmp_path / "routing" / "fit.json"
    assert not own.exists(), "a file's log is not this cluster's"
    assert run("calibrate", "--log", str(path)) == 0
    captured = capsys.readouterr()
    assert f"fit {page['digest'][:12]} of 504 steps, 2 functions" in captured.out
    assert "the fit is written nowhere; give --out FILE" in captured.err
    assert told(capsys, "calibrate", "--log", str(path), "--out", str(own)) == page
    assert load_fit(own).digest == page["digest"]
    assert told(capsys, "status")["fit"] == f"fit {page['digest'][:12]} of 504 steps"


def test_calibration_without_enough_to_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("calibrate") == console.EXIT_BAD_REQUEST
    assert "holds 0 finished steps of functions, a fit needs 30" in capsys.readouterr().err
    path = tmp_path / "log.jsonl"
    path.write_text("", encoding="utf-8")
    assert run("calibrate", "--log", str(path)) == console.EXIT_BAD_REQUEST
    assert "is empty; run some workflows" in capsys.readouterr().err


def test_a_log_that_does_not_fit_is_said_to_promote_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines_of(log_of(later=2.0))), encoding="utf-8")
    assert run("calibrate", "--log", str(path)) == 0
    assert "does not fit, so nothing is promoted: " in capsys.readouterr().out


class Commands:
    """Stands for `python -m rl`: it writes what the command would."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []
        self.fail = ""

    def __call__(self, command: list[str], **_: Any) -> Any:
        words = command[3:]
        self.words.append(words)
        _parser().parse_args(words)  # ends the process where the command knows no such option
        if self.fail == words[0]:
            return subprocess.CompletedProcess(command, 1, stderr="x\nerror: it is held out\n")
        if words[0] == "train":
            save_policy(Path(words[words.index("--out") + 1]), policy_of(2.0, favourite=1))
        return subprocess.CompletedProcess(command, 0, stderr="")


def test_training_goes_from_the_log_to_a_policy_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    monkeypatch.setattr("rl.live.training.subprocess.run", commands)
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines_of(log_of())), encoding="utf-8")
    mine = tmp_path / "mine.toml"
    mine.write_text(written(QueueParameters(order_left=1.5), {}, "a test"))
    words = ("train", "--log", str(path), "--minutes", "1", "--days", "12", "--install",
             "--base", str(mine))  # fmt: skip
    found = told(capsys, *words)
    trained, reported = commands.words
    assert [trained[0], reported[0]] == ["train", "report"]
    assert trained.count("--regime") == 4, "the log's own beside the three"
    begun = load_tuned(Path(trained[trained.index("--base") + 1]))
    # machines here go after 15 minutes without work, whatever they did where it was tuned
    assert begun == QueueParameters(order_left=1.5, idle_seconds=900.0, tail_seconds=900.0)
    beside = load_parameters(Path(reported[reported.index("--parameters") + 1]))
    assert beside == replace(load_parameters(), idle_seconds=900.0, tail_seconds=900.0)
    assert str(tmp_path / "routing" / "calibrated.toml") in trained
    assert not (tmp_path / "routing" / "fit.json").exists(), "a head believes its own log alone"
    assert trained[trained.index("--minutes") + 1] == "1.0"
    assert reported[reported.index("--policy") + 1] == found["policy"]
    standing = told(capsys, "status")["standing"]
    assert (standing["stage"], standing["policy"]) == ("shadow", found["digest"])
    commands.fail = "train"
    assert run(*words) == console.EXIT_FAILED
    assert "error: training failed: it is held out" in capsys.readouterr().err
    count = len(commands.words)
    assert run(*words, "--report", str(tmp_path)) == console.EXIT_BAD_REQUEST
    assert f"{tmp_path} is a folder; give the name of a file in it" in capsys.readouterr().err
    assert len(commands.words) == count, "it is told before an hour of training"


def test_what_is_shipped_is_learned_on_this_head_under_its_caps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learned of 16 GB and 0.40 USD a day would decide nothing under 25 USD a month."""
    commands = Commands()
    monkeypatch.setattr("rl.live.training.subprocess.run", commands)
    monkeypatch.setenv("IRONCLIW_BUDGET__MONTH_USD", "25")
    assert run("train", "--minutes", "1") == 0
    own = known(load_settings(state_dir=str(tmp_path)))
    for words, count in zip(commands.words, (3, 5), strict=True):
        paths = [Path(words[at + 1]) for at, word in enumerate(words) if word == "--regime"]
        assert len(paths) == count
        for path in paths:
            regime, shipped = load_regime(path), load_regime(REGIMES / path.name)
            assert (regime.costs.day_dollars, regime.costs.month_dollars) == (25.0, 25.0)
            assert regime.home.memory_gb == own["home"]["memory_gb"]
            assert (regime.arrivals, regime.spot) == (shipped.arrivals, shipped.spot)
            assert regime.trained == shipped.trained


def test_a_policy_of_other_heads_is_told_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "narrow.npz"
    save_policy(path, policy_of(wide=False))
    assert run("promote", str(path)) == 0
    told_ = capsys.readouterr().err
    assert "it will decide nothing: 25 to 25 USD a day, -1e-06 to 1e-06 in training" in told_
    assert "`ironcliw route train` makes one for this head" in told_
    assert run("promote", str(policy_in(tmp_path))) == 0
    assert "will decide nothing" not in capsys.readouterr().err


def confirmed_on(days: int) -> PolicyFile:
    told = {"is_confirmed": True, "confirmation": {"mean": 0.9, "high": 0.98, "days": days}}
    return replace(policy_of(1.0, favourite=0), training=told)


def test_a_policy_that_was_not_confirmed_is_told_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.npz"
    silent = "this policy decides as its base does: nothing that it learned was better beyond doubt"
    for policy, note in (
        (policy_of(), silent),
        (policy_of(1.0, favourite=0), "nobody has confirmed on fresh days that this policy costs"),
        (confirmed_on(8), "this policy was confirmed on 8 fresh days of each regime, which says"),
        (confirmed_on(200), ""),
    ):
        save_policy(path, policy)
        assert run("promote", str(path)) == 0
        told_ = capsys.readouterr().err
        assert note in told_ and (note or "confirmed" not in told_)
        assert run("status") == 0
        lines = capsys.readouterr().out
        assert ("it decides as its base does" in lines) == (note == silent)


def test_training_without_a_log_uses_what_is_shipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    monkeypatch.setattr("rl.live.training.subprocess.run", commands)
    assert run("train", "--minutes", "1") == 0
    assert commands.words[0].count("--regime") == 3
    assert "--quick" not in commands.words[0]
    assert run("train", "--quick") == 0
    assert all("--quick" in words for words in commands.words[2:])
    assert "the shipped regimes are trained on: the decision log holds 0" in capsys.readouterr().err
