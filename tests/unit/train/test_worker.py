"""One attempt after the other of a run, in this process, without Ray."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ironcliw.errors import TrainingError
from tests.unit.train.preference.pairs import make_pairs
from tests.unit.train.tiny import WORDS, make_data, make_job, make_model
from train.checkpoint.snapshot import Checkpoint
from train.checkpoint.store import CheckpointStore
from train.data.plan import PackedBatch, StepPlan
from train.data.tokenized import TokenizedData
from train.job import Job
from train.loop.compute import Computer
from train.loop.log import check
from train.loop.run import StepReport
from train.outcome import read_outcome
from train.publish import refusal
from train.run_files import (
    ATTEMPTS,
    CHECKPOINTS,
    EVALUATION_PAGE,
    HELD_OUT_REFERENCE,
    LOG,
    OUTCOME,
    REFERENCE,
    RunFiles,
)
from train.worker import MachineEndsError, work


def dies_at(step: int) -> Callable[[StepReport], None]:
    def report(at: StepReport) -> None:
        if at.step == step:
            raise KeyboardInterrupt  # not an Exception: as sudden as a test can be

    return report


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def result(job: Job) -> tuple[dict[str, bytes], str]:
    place = "adapter/adapter_model" if job.config.use_lora else "model/model"
    weights = load_file(Path(job.uri) / f"{place}.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}, (
        Path(job.uri) / LOG
    ).read_text()


def die(job: Job, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        work(job, report=dies_at(step))
    for thread in threading.enumerate():
        if thread.name == "checkpoint-writer":
            thread.join(60)


def saved(job: Job) -> Checkpoint:
    found = CheckpointStore(f"{job.uri}/{CHECKPOINTS}", read_only=True).newest()
    assert found is not None
    return found


def spoiled(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[float], float]) -> None:
    """Let something happen after the micro-batch `at`, counted from 1."""
    real, calls = Computer.backward, []

    def backward(self: Computer, batch: PackedBatch) -> float:
        calls.append(1)
        loss = real(self, batch)
        return act(loss) if len(calls) == at else loss

    monkeypatch.setattr(Computer, "backward", backward)


def test_a_run_ends_with_an_adapter_and_a_log(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path, model)
    steps: list[StepReport] = []
    work(job, report=steps.append)
    outcome = read_outcome(job.uri)
    assert outcome is not None
    assert outcome["outcome"] == "finished"
    assert outcome["steps"] == 8 == len(steps)
    weights, log = result(job)
    assert check(log) == 8
    assert steps[-1].loss < steps[0].loss
    assert len(weights) == 2 * 2 * 7


def test_a_run_that_dies_after_every_step_has_the_same_bits(tmp_path: Path, model: Path) -> None:
    whole, broken = make_job(tmp_path / "a", model), make_job(tmp_path / "b", model)
    work(whole)
    for step in range(1, 9):
        with pytest.raises(KeyboardInterrupt):
            work(broken, report=dies_at(step))
    work(broken)
    assert result(whole) == result(broken)


def _slow(kind: str, **changes: Any) -> Any:
    return pytest.param(kind, changes, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gpt2", {}),
        ("llama", {"lora_dropout": 0.1}),
        ("llama", {"quantization": "nf4"}),
        ("llama", {"use_lora": False}),
        _slow("llama", gradient_checkpointing=True),
        _slow("llama", gradient_checkpointing=True, lora_dropout=0.1),
        _slow("llama", use_lora=False, gradient_checkpointing=True),
        _slow("llama", use_dora=True),
        _slow("llama", shards=3, warmup_steps=1, schedule="linear"),
        _slow("llama", precision="bf16"),
        _slow("llama", use_lora=False, precision="auto"),
    ],
)
def test_a_resume_is_exact(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", kind)
    changes = {"max_steps": 5, **changes}
    whole, broken = (make_job(tmp_path / name, model, **changes) for name in ("a", "b"))
    losses: list[float] = []
    work(whole, report=lambda report: losses.append(report.loss))
    die(broken, 3)
    assert saved(broken).step == 2
    work(broken)
    assert result(whole) == result(broken)
    assert min(losses) < losses[0]


def test_another_seed_gives_other_bits(tmp_path: Path, model: Path) -> None:
    jobs = [make_job(tmp_path / str(seed), model, seed=seed, max_steps=2) for seed in (0, 1)]
    for job in jobs:
        work(job)
    assert result(jobs[0])[0] != result(jobs[1])[0]
    assert result(jobs[0])[1] != result(jobs[1])[1]


def test_checkpointing_changes_no_bit(tmp_path: Path, model: Path) -> None:
    plain, checkpointed = (
        make_job(tmp_path / str(on), model, gradient_checkpointing=on, lora_dropout=0.1)
        for on in (False, True)
    )
    work(plain)
    work(checkpointed)
    assert result(plain) == result(checkpointed)


def with_a_bad_row(job: Job, row: int) -> TokenizedData:
    """The last word stands in one row only."""
    tokens = job.train.tokens % (WORDS - 1)
    tokens[job.train.offsets[row]] = WORDS - 1
    return dataclasses.replace(job.train, tokens=tokens)


def test_a_loss_that_is_no_number_names_its_rows_and_saves_the_last_step(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", tied=False)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][WORDS - 1] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    job = make_job(tmp_path, folder, checkpoint={"every": 100})
    rows = StepPlan(job.train, seed=0, batch_size=6, micro_batch_tokens=64).step(2).rows
    job = dataclasses.replace(job, train=with_a_bad_row(job, rows[3]))
    work(job)
    with pytest.raises(TrainingError, match="step 2: the loss is nan") as raised:
        read_outcome(job.uri)
    for row in rows:
        assert f"rows.jsonl:{row + 1}" in raised.value.message
    found = saved(job)
    assert found.step == 2
    assert float(found.tensors["optimizer/step"]) == 2
    assert all(bool(each.isfinite().all()) for each in found.tensors.values())
    assert check(found.state["log"]) == 2


def test_an_infinite_loss_with_a_finite_gradient_is_not_applied(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = (
        make_job(tmp_path / name, model, checkpoint={"every": 100}) for name in ("a", "b")
    )
    work(whole)
    with monkeypatch.context() as patch:
        spoiled(patch, 5, lambda loss: math.inf)
        work(broken)
    with pytest.raises(TrainingError, match="the loss is inf"):
        read_outcome(broken.uri)
    assert saved(broken).step > 0
    RunFiles(broken.uri).remove(OUTCOME)
    work(broken)
    assert result(whole) == result(broken)


@pytest.mark.parametrize("at", [1, 3, 4, 5])
def test_a_notice_in_a_step_saves_all_and_drops_the_step(
    at: int, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_job(tmp_path / "a", model, checkpoint={"every": 100})
    work(whole)
    handover = tmp_path / "handover"
    for name in ("hooks", "done"):
        (handover / name).mkdir(parents=True)
    given = make_job(tmp_path / "b", model, checkpoint={"every": 100}, max_failures=0)
    settings = given.settings.model_copy(update={"handover_dir": handover})
    job = dataclasses.replace(given, settings=settings)

    def notice(loss: float) -> float:
        assert len(list((handover / "hooks").iterdir())) == 1
        text = json.dumps({"at": 0.0, "deadline": 30.0, "reason": "preempted"})
        (handover / "notice.json").write_text(text)
        return loss

    steps: list[StepReport] = []
    with monkeypatch.context() as patch, pytest.raises(MachineEndsError, match="all is saved"):
        spoiled(patch, at, notice)
        work(job, report=steps.append)
    assert len(steps) < 5
    assert saved(job).step == len(steps)
    assert [file.name for file in (handover / "done").iterdir()] == [
        file.name for file in (handover / "hooks").iterdir()
    ]
    assert read_outcome(job.uri) is None
    # announced ends do not count: max_failures is 0
    (handover / "notice.json").unlink()
    work(job)
    assert result(whole) == result(job)


def test_a_process_that_ends_by_itself_takes_its_hook_back(tmp_path: Path, model: Path) -> None:
    for name in ("hooks", "done"):
        (tmp_path / "handover" / name).mkdir(parents=True)
    job = make_job(tmp_path, model, max_steps=1)
    settings = job.settings.model_copy(update={"handover_dir": tmp_path / "handover"})
    work(dataclasses.replace(job, settings=settings))
    assert read_outcome(job.uri) is not None
    assert not list((tmp_path / "handover").glob("*/*"))


def test_attempts_without_progress_end_the_run(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path, model, checkpoint={"every": 100}, max_failures=2)
    for _ in range(3):
        die(job, 1)
        assert read_outcome(job.uri) is None
    steps: list[StepReport] = []
    work(job, report=steps.append)
    assert not steps
    with pytest.raises(TrainingError, match="3 attempts ended at step 0, and max_failures is 2"):
        read_outcome(job.uri)
    work(job, report=steps.append)
    assert not steps, "a failed run goes on by itself"
    # submitted again, it has all its attempts again
    RunFiles(job.uri).remove(OUTCOME)
    die(job, 1)
    work(job)
    assert read_outcome(job.uri) is not None


def test_attempts_with_progress_are_not_counted(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path, model, max_failures=1)
    for step in (2, 3, 4):
        die(job, step)
    work(job)
    assert read_outcome(job.uri) is not None
    assert RunFiles(job.uri).read(ATTEMPTS) == {"step": 3, "attempts": 1}


def test_evaluations_are_logged_once(tmp_path: Path, model: Path) -> None:
    whole, broken = (
        dataclasses.replace(make_job(tmp_path / name, model), held_out=make_data(7, seed=5))
        for name in ("a", "b")
    )
    work(whole)
    for step in (1, 4, 5, 8):
        die(broken, step)
    work(broken)
    assert result(whole) == result(broken)
    lines = [json.loads(line) for line in result(whole)[1].splitlines()]
    measured = [line for line in lines if line.get("event") == "evaluation"]
    assert [line["step"] for line in measured] == [0, 4, 8]
    for line in measured:
        assert line["perplexity"] == pytest.approx(math.exp(line["eval_loss"]))
    # random weights know nothing of 64 words
    assert measured[0]["eval_loss"] == pytest.approx(math.log(WORDS), rel=0.1)
    assert len({line["eval_loss"] for line in measured}) == 3
    outcome = read_outcome(whole.uri)
    assert outcome is not None
    assert outcome["evaluation"] == measured[-1]


@pytest.mark.parametrize("changed", ["rows", "max_rows"])
def test_measures_of_other_rows_are_refused_or_marked_and_never_compared(
    changed: str, tmp_path: Path, model: Path
) -> None:
    def job(name: str, seed: int = 5, **changes: Any) -> Job:
        made = make_job(tmp_path / name, model, **changes)
        return dataclasses.replace(made, held_out=make_data(7, seed=seed))

    # what decides over publishing may be changed at any time
    die(job("a"), 5)
    work(job("a", evaluation={"gate_tolerance": 0.5}))
    assert "inexact" not in result(job("a"))[1]
    die(job("b"), 5)
    new: dict[str, Any] = {"seed": 6} if changed == "rows" else {"evaluation": {"max_rows": 3}}
    work(job("b", **new))
    with pytest.raises(TrainingError, match="held-out rows, or what is measured of them: "):
        read_outcome(job("b").uri)
    RunFiles(job("b").uri).remove(OUTCOME)
    work(job("b", **new, allow_inexact=True))
    lines = [json.loads(line) for line in result(job("b"))[1].splitlines()]
    (mark,) = (line for line in lines if line.get("event") == "inexact resume")
    assert mark["why"][0].startswith("held-out rows")
    outcome = read_outcome(job("b").uri)
    assert outcome is not None
    assert outcome["evaluation"]["eval_loss"] > 0
    assert (outcome["before"], outcome["gate"]) == (None, None)
    assert "were changed while the run went on" in str(refusal(outcome))
    page = (Path(job("b").uri) / EVALUATION_PAGE).read_text()
    assert "| loss | - |" in page


def test_measuring_changes_no_weight(tmp_path: Path, model: Path) -> None:
    plain, measured = (make_job(tmp_path / name, model, lora_dropout=0.1) for name in ("a", "b"))
    work(plain)
    work(dataclasses.replace(measured, held_out=make_data(7, seed=5)))
    assert result(plain)[0] == result(measured)[0]


def test_a_damaged_checkpoint_is_told_and_the_one_before_used(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, broken = (make_job(tmp_path / name, model) for name in ("a", "b"))
    work(whole)
    die(broken, 5)
    newest = Path(saved(broken).location)
    file = newest / "optimizer.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    steps: list[int] = []
    with caplog.at_level(logging.ERROR):
        work(broken, report=lambda report: steps.append(report.step))
    assert "DAMAGED CHECKPOINT" in caplog.text
    assert steps[0] == 4
    assert result(whole) == result(broken)


def test_other_data_are_refused_unless_inexact_is_allowed(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path, model)
    die(job, 3)
    other = dataclasses.replace(job, train=make_data(seed=9))
    work(other)
    with pytest.raises(TrainingError, match=r"cannot be continued exactly.*data") as raised:
        read_outcome(other.uri)
    assert "--allow-inexact" in raised.value.message
    assert saved(job).step == 2
    RunFiles(job.uri).remove(OUTCOME)
    allowed = dataclasses.replace(
        other, config=make_job(tmp_path, model, allow_inexact=True).config
    )
    work(allowed)
    lines = [json.loads(line) for line in result(allowed)[1].splitlines()]
    marks = [line for line in lines if line.get("event") == "inexact resume"]
    assert [mark["step"] for mark in marks] == [2]
    assert "data" in marks[0]["why"][0]
    assert lines.index(marks[0]) == 2
    assert check(result(allowed)[1]) == 9


def test_a_kept_reference_of_before_is_used_where_that_is_allowed(
    tmp_path: Path, model: Path
) -> None:
    def job(**changes: Any) -> Job:
        kept = {"preference": {"reference": "precomputed"}, "evaluation": {"max_rows": 4}}
        made = make_job(tmp_path, model, **kept, **changes)
        return dataclasses.replace(made, train=make_pairs(24), held_out=make_pairs(9, seed=5))

    die(job(), 3)
    files = RunFiles(job().uri)
    for folder, rows in ((REFERENCE, 24), (HELD_OUT_REFERENCE, 4)):
        part = files.read(f"{folder}/part-00000.json")
        assert part is not None and part["rows"] == rows, "no more than is measured"
        # as another release of torch left it, with micro-batches of another size
        header = files.read(f"{folder}/reference.json")
        assert header is not None
        header["key"] |= {"torch": "1.0", "micro_batch_tokens": 50}
        files.write(f"{folder}/reference.json", header)
    work(job())
    with pytest.raises(TrainingError, match=r"torch: 1\.0 there.* or give --allow-inexact"):
        read_outcome(job().uri)
    files.remove(OUTCOME)
    die(job(allow_inexact=True), 6)
    work(job(allow_inexact=True))
    lines = [json.loads(line) for line in result(job())[1].splitlines()]
    (mark,) = (line for line in lines if "inexact" in line.get("event", ""))
    assert mark["event"] == "inexact reference"
    assert sum("reference's torch: 1.0 there" in why for why in mark["why"]) == 2
    assert [line["step"] for line in lines if "event" not in line] == list(range(1, 9))


def test_other_parameters_are_refused(tmp_path: Path, model: Path) -> None:
    die(make_job(tmp_path, model), 3)
    other = make_job(tmp_path, model, lora_rank=8, allow_inexact=True)
    work(other)
    with pytest.raises(TrainingError, match="holds other parameters than this run trains"):
        read_outcome(other.uri)


def test_the_models_threads_are_the_jobs(tmp_path: Path, model: Path) -> None:
    work(make_job(tmp_path, model, max_steps=1))
    assert torch.get_num_threads() == 1


def test_the_same_model_at_another_place_is_resumed_exactly(tmp_path: Path, model: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    whole, broken = (make_job(tmp_path / name, model) for name in ("a", "b"))
    work(whole)
    die(broken, 3)
    work(make_job(tmp_path / "b", moved))
    assert result(whole) == result(broken)
    assert "inexact" not in result(broken)[1]


def test_a_listener_hears_the_whole_log(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path, model)
    die(job, 5)
    heard: list[dict[str, Any]] = []
    work(job, listen=lambda line: heard.append(dict(line)))
    # what was logged before the resume comes first
    assert [line["step"] for line in heard] == list(range(1, 9))
    assert heard == [json.loads(line) for line in result(job)[1].splitlines()]
