"""`train sft` and `dpo`: what it asks of the trainer, what it shows, and how it ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ironcliw.cli import main
from ironcliw.errors import CheckpointError, DataError, IroncliwError, TrainingError
from ironcliw.settings import Settings
from train import trainer
from train.config import TrainingConfig
from train.embedding.options import EmbeddingOptions
from train.evaluation.gate import Verdict
from train.loop.run import StepReport
from train.preference.options import PreferenceOptions
from train.run_progress import Lines, Meter, clock
from train.trainer import TrainingResult


def step(number: int, *, tokens: int = 100, seconds: float = 0.5, steps: int = 40) -> StepReport:
    return StepReport(number, steps, 0, 1.25, 0.5, 1e-4, tokens, seconds)


class FakeTrainer:
    """Stands for `Trainer`: two steps, and a result or an error."""

    made: TrainingConfig
    fails: IroncliwError | None = None

    def __init__(
        self, config: TrainingConfig, settings: Settings, report: Callable[[StepReport], None]
    ) -> None:
        FakeTrainer.made = config
        self._report = report

    def train(self) -> TrainingResult:
        self._report(step(1))
        self._report(step(40))
        if FakeTrainer.fails is not None:
            raise FakeTrainer.fails
        measures = {"eval_loss": 1.5, "perplexity": 4.4817}
        before = {"eval_loss": 2.0, "perplexity": 7.3891}
        made = TrainingResult(
            "bot", "/runs/bot", "/runs/bot/adapter", 40, "ab" * 32, measures, before
        )
        if FakeTrainer.made.publish == "unknown":
            return dataclasses.replace(made, ungated="nothing was held out")
        if FakeTrainer.made.publish == "good":
            return dataclasses.replace(made, published="some:good", version=3)
        return dataclasses.replace(made, gate=Verdict("eval_loss", 1.5, 2.0, 0.0))


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "Trainer", FakeTrainer)
    monkeypatch.setattr(FakeTrainer, "fails", None)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("model_name: some\nlearning_rate: 1e-3\ndata:\n  train: a.jsonl\n")
    return path


def run(*words: str, code: int = 0, command: str = "sft") -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", command, *words])
    assert (caught.value.code or 0) == code


def test_preferences_by_default_and_as_the_file_has_them(config: Path) -> None:
    run("--config", str(config), command="dpo")
    assert FakeTrainer.made.preference == PreferenceOptions()
    run("--config", str(config), "--set", "preference.beta=0.3", command="dpo")
    assert FakeTrainer.made.preference == PreferenceOptions(beta=0.3)
    config.write_text(config.read_text() + "preference:\n  loss: ipo\n")
    run("--config", str(config), command="dpo")
    assert FakeTrainer.made.preference == PreferenceOptions(loss="ipo")


def test_embeddings_by_default_and_as_the_file_has_them(config: Path) -> None:
    run("--config", str(config), command="embed")
    assert FakeTrainer.made.embedding == EmbeddingOptions()
    config.write_text(config.read_text() + "embedding:\n  temperature: 0.1\n")
    run("--config", str(config), command="embed")
    assert FakeTrainer.made.embedding == EmbeddingOptions(temperature=0.1)


def test_embeddings_are_no_answers(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text() + "embedding:\n  temperature: 0.1\n")
    run("--config", str(config), code=4)
    assert "give it to `ironcliw train embed`" in capsys.readouterr().err
    run("--config", str(config), code=4, command="dpo")
    assert "sections preference and embedding" in capsys.readouterr().err


def test_preferences_are_not_imitated(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text() + "preference:\n  loss: ipo\n")
    run("--config", str(config), code=4)
    assert "has a section preference, which compares answers" in capsys.readouterr().err


def test_the_result_is_a_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--config", str(config))
    assert FakeTrainer.made.learning_rate == 1e-3
    printed = capsys.readouterr()
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert "result /runs/bot/adapter" in lines
    assert "loss 2.0000 1.5000" in lines
    assert "perplexity 7.3891 4.4817" in lines
    assert "\x1b" not in printed.out + printed.err
    # a pipe gets the first step and the last
    assert printed.err.splitlines() == [
        "step 1 of 40, loss 1.2500, 200 tokens/s, 0:00:20 left",
        "step 40 of 40, loss 1.2500, 200 tokens/s, 0:00:00 left",
    ]


def test_json(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--config", str(config), "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["steps"]) == ("bot", 40)
    assert found["before"]["eval_loss"] > found["evaluation"]["eval_loss"]


def test_the_command_line_wins_over_the_file(config: Path) -> None:
    run(
        *("--config", str(config), "--name", "mine", "--model", "other", "--allow-inexact"),
        *("--data", "b.jsonl", "--data", "c.jsonl", "--set", "data.max_length=77"),
        *("--set", "lora_targets=[q_proj, v_proj]", "--set", "learning_rate=5e-5"),
    )
    made = FakeTrainer.made
    assert (made.name, made.model_name, made.allow_inexact) == ("mine", "other", True)
    assert made.data.train == ("b.jsonl", "c.jsonl")
    assert made.data.max_length == 77
    assert made.lora_targets == ("q_proj", "v_proj")
    assert made.learning_rate == 5e-5


def test_what_the_gate_says_is_the_exit_code(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--config", str(config), "--publish", "good")
    assert "published as some:good, version 3" in capsys.readouterr().out
    run("--config", str(config), "--publish", "worse", code=1)
    printed = capsys.readouterr()
    assert "result" in printed.out, "the table is shown all the same"
    assert printed.err.splitlines()[-1] == (
        "error: not published as 'worse', since it is worse than its base: eval_loss went from "
        "1.5000 to 2.0000 (lower is better, tolerance 0); the adapter stays in /runs/bot/adapter"
    )
    # what was not measured is not called worse
    run("--config", str(config), "--publish", "unknown", code=1)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: not published as 'unknown', since nothing was held out; the adapter stays in "
        "/runs/bot/adapter"
    )


def test_every_problem_of_the_data_has_a_line(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeTrainer.fails = DataError("2 problem(s)\na.jsonl:1: bad\na.jsonl:7: worse")
    run("--config", str(config), code=4)
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "error: 2 problem(s)",
        "a.jsonl:1: bad",
        "a.jsonl:7: worse",
    ]
    run("--config", str(config), "--json", code=4)
    body = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert body["error"]["message"] == FakeTrainer.fails.message


@pytest.mark.parametrize("error", [TrainingError("it failed"), CheckpointError("no room")])
def test_a_run_that_fails(
    config: Path, error: IroncliwError, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeTrainer.fails = error
    run("--config", str(config), code=1)
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {error.message}"


def test_wrong_settings(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--config", str(config), "--set", "data.max_lenght=5", code=4)
    assert "data.max_lenght" in (told := capsys.readouterr().err)
    assert "max_length" in told
    run("--config", str(config.with_name("none.yaml")), code=4)
    assert "No such file" in capsys.readouterr().err
    run("--config", str(config), "--set", "max_steps", code=2)
    assert "KEY=VALUE" in capsys.readouterr().err
    run("--config", str(config), "--set", "name=[", code=2)
    assert "YAML" in capsys.readouterr().err


def test_speed_and_time_left_are_means_of_the_last_steps() -> None:
    meter = Meter()
    meter.add(step(1, tokens=1, seconds=1000.0))
    for number in range(2, 21):
        meter.add(step(number))
    shown = meter.add(step(21, tokens=1100, seconds=0.5))
    # the first one is forgotten
    assert shown.tokens_per_second == pytest.approx((19 * 100 + 1100) / 10)
    assert shown.seconds_left == pytest.approx(19 * 0.5)
    assert not shown.went_back
    assert meter.add(step(21)).went_back
    assert not meter.add(step(22)).went_back


def test_a_line_says_how_often_a_comparison_is_right() -> None:
    assert Meter().add(step(3)).line() == "step 3 of 40, loss 1.2500, 200 tokens/s, 0:00:18 left"
    compared = dataclasses.replace(step(3), measures={"reward_margin": 2.0, "reward_accuracy": 0.5})
    assert "loss 1.2500, accuracy 0.50, 200 tokens/s" in Meter().add(compared).line()


def test_a_line_every_ten_seconds() -> None:
    meter, lines = Meter(), Lines()
    due = [
        second
        for second, number in enumerate(range(1, 41))
        if lines.due(meter.add(step(number)), float(second))
    ]
    assert due == [0, 10, 20, 30, 39]
    assert lines.due(meter.add(step(12)), 40.0)


def test_clock() -> None:
    assert [clock(0.2), clock(59.6), clock(3723)] == ["0:00:00", "0:01:00", "1:02:03"]
