"""What the driver of a run decides; a whole run through Ray is an integration test."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cluster.environment import GIBIBYTE, Environment, Gpu, MachineKind
from ironcliw.errors import ConflictError, DataError, SettingsError, TrainingError
from ironcliw.settings import Settings
from tests.unit.train.checkpoint.samples import snapshot
from tests.unit.train.data.token_rows import rows_of
from tests.unit.train.embedding.encoders import make_encoder
from tests.unit.train.evaluation.rows_of_text import TOKENIZER
from tests.unit.train.preference.pairs import make_pairs
from train.checkpoint.store import CheckpointStore
from train.checks import check_same_run
from train.config import TrainingConfig, make_config
from train.data.prepare import DataReport, Prepared
from train.data.tokenized import TokenizedData
from train.job import Job
from train.placement import SPOT_LABEL, Place, check_reference, choose_place
from train.run_files import CHECKPOINTS, CONFIG, OUTCOME, RunFiles
from train.trainer import Trainer, check_kind

NUMBERS = {"seed": 0, "lora_rank": 16, "data": "abc", "model": "x"}


def config(**changes: Any) -> TrainingConfig:
    return make_config({"model_name": "some", **changes}, "test")


def finished(folder: Path) -> RunFiles:
    files = RunFiles(str(folder))
    files.write(CONFIG, {"config": {}, "numbers": NUMBERS})
    files.write(OUTCOME, {"outcome": "finished"})
    return files


def test_the_result_of_the_same_run_is_shown(tmp_path: Path) -> None:
    check_same_run("a", finished(tmp_path), NUMBERS)


def test_a_finished_run_is_not_shown_for_another(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="other values of data, seed; give this run a name"):
        check_same_run("a", finished(tmp_path), {**NUMBERS, "seed": 1, "data": "xyz"})


@pytest.mark.parametrize("outcome", [None, "failed"])
def test_saved_steps_are_not_continued_as_another_run(outcome: str | None, tmp_path: Path) -> None:
    files = finished(tmp_path)
    files.remove(OUTCOME)
    if outcome is not None:
        files.write(OUTCOME, {"outcome": outcome, "error": "no room"})
    # begun, and nothing saved: it may be another one
    check_same_run("a", files, {**NUMBERS, "seed": 1})
    CheckpointStore(files.path(CHECKPOINTS)).commit(snapshot(7))
    check_same_run("a", files, NUMBERS)
    told = r"run a has saved 7 steps .*, with other values of data, seed; .* --allow-inexact"
    other = {**NUMBERS, "seed": 1, "data": "xyz"}
    with pytest.raises(SettingsError, match=told):
        check_same_run("a", files, other)
    check_same_run("a", files, other, allow_inexact=True)
    with pytest.raises(SettingsError, match="other values of model; give those"):
        check_same_run("a", files, {**NUMBERS, "model": "y"}, allow_inexact=True)


@pytest.fixture
def two_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run names is there, and has two rows; Ray is not asked for."""
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    prepared = Prepared(rows_of([4, 5]), None, DataReport(2, (), {}, ()))
    for name, given in {
        "choose_place": Place(1),
        "_tokenizer": TOKENIZER,
        "how_to_read": None,
        "read_data": prepared,
        "model_path": tmp_path,
        "weights_digest": "model",
    }.items():
        monkeypatch.setattr(f"train.trainer.{name}", lambda *_, given=given, **__: given)


@pytest.mark.usefixtures("two_rows")
def test_a_second_job_of_a_name_changes_nothing_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []

    def trainer(seed: int) -> Trainer:
        return Trainer(config(name="a", seed=seed), Settings(state_dir=tmp_path))

    def fit(self: Trainer, job: Job, place: Place, name: str) -> None:
        jobs.append(job)
        if len(jobs) == 1:
            before = RunFiles(job.uri).read(CONFIG)
            with pytest.raises(ConflictError, match="run a is in use by process"):
                trainer(seed=1).train("rows.jsonl")
            assert RunFiles(job.uri).read(CONFIG) == before
            assert RunFiles(job.uri).read(OUTCOME) is None
            CheckpointStore(f"{job.uri}/{CHECKPOINTS}").commit(snapshot(7))

    monkeypatch.setattr(Trainer, "_fit", fit)
    with pytest.raises(TrainingError, match="ended without an outcome, 7 steps are saved"):
        trainer(seed=0).train("rows.jsonl")
    # nor does one that comes later, and would be another run
    with pytest.raises(SettingsError, match="other values of seed"):
        trainer(seed=1).train("rows.jsonl")
    found = RunFiles(jobs[0].uri).read(CONFIG)
    assert found is not None and found["config"]["seed"] == 0
    assert RunFiles(jobs[0].uri).read(OUTCOME) is None
    assert len(jobs) == 1


@pytest.mark.usefixtures("two_rows")
def test_workers_get_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train gives them a working directory of its own, and takes no path that is not whole."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    jobs: list[Job] = []
    monkeypatch.setattr(Trainer, "_fit", lambda self, job, place, name: jobs.append(job))
    given = config(name="a", checkpoint={"storage": "runs/a"})
    with pytest.raises(TrainingError, match="ended without an outcome"):
        Trainer(given, Settings(state_dir=tmp_path)).train("rows.jsonl")
    assert jobs[0].uri == f"{tmp_path}/runs/a"
    assert jobs[0].config.model_name == f"{tmp_path}/some"
    kept = RunFiles(jobs[0].uri).read(CONFIG)
    assert kept is not None and kept["config"]["model_name"] == f"{tmp_path}/some"


@pytest.mark.parametrize(
    ("preference", "data", "words"),
    [
        (None, make_pairs(2), r"pairs.jsonl:1 has a chosen and a rejected .* `ironcliw train dpo`"),
        ({}, rows_of([4, 5]), r"a.jsonl:1 has one answer, and the run compares two; give rows"),
        ({}, make_pairs(2), None),
        (None, rows_of([4]), None),
    ],
)
@pytest.mark.parametrize("held_out", [False, True])
def test_data_of_the_other_kind(
    preference: Any, data: TokenizedData, words: str | None, held_out: bool
) -> None:
    sound = rows_of([3]) if preference is None else make_pairs(1)
    report = DataReport(2, (), {}, ())
    prepared = Prepared(sound, data, report) if held_out else Prepared(data, None, report)
    given = config(preference=preference)
    if words is None:
        check_kind(given, prepared)
        return
    with pytest.raises(DataError, match=words):
        check_kind(given, prepared)


def test_a_model_that_embeds_texts_does_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("train.trainer.choose_place", lambda *_: Place(1))
    folder = make_encoder(tmp_path / "encoder")
    run = Trainer(config(model_name=str(folder), preference={}), Settings(state_dir=tmp_path))
    with pytest.raises(SettingsError, match="embeds texts and does not write; train it with `iro"):
        run.train("rows.jsonl")


@pytest.mark.parametrize(
    ("labels", "changes", "error", "words"),
    [
        ((9, 9), {}, DataError, r"all 2 rows, .*jsonl:1 first, have the same label, and"),
        ((9, 10), {"embedding": {"matryoshka": [32]}}, SettingsError, r"matryoshka has 32, and"),
        ((9, 10), {"micro_batch_tokens": 16}, DataError, r"rows.jsonl:1 has 19 tokens, more than"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_worker_starts(
    labels: tuple[int, ...],
    changes: dict[str, Any],
    error: type[Exception],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("train.trainer.choose_place", lambda *_: Place(1))
    monkeypatch.setattr(Trainer, "_fit", lambda *_: pytest.fail("a worker was started"))
    folder = make_encoder(tmp_path / "encoder")
    rows = tmp_path / "rows.jsonl"
    long = " ".join(f"w{at}" for at in range(20, 34))
    rows.write_text("".join(f'{{"text": "{long}", "label": "w{at}"}}\n' for at in labels))
    given = config(model_name=str(folder), **{"embedding": {}, **changes})
    with pytest.raises(error, match=words):
        Trainer(given, Settings(state_dir=tmp_path)).train(rows)


def test_without_data_there_is_nothing_to_train_on() -> None:
    with pytest.raises(SettingsError, match=r"data\.train is empty"):
        Trainer(config(), Settings()).train()


MAC = Environment(MachineKind.MAC, "Darwin", "arm64", "Apple M1", 8, 16 * GIBIBYTE)
SMALL = Environment(MachineKind.OTHER, "Linux", "x86_64", "", 2, 24 * GIBIBYTE)
LARGE = Environment(MachineKind.OTHER, "Linux", "x86_64", "", 8, 64 * GIBIBYTE)
CLOUD = {"cloud": {"project": "my-project", "machine_type": "e2-highmem-4"}}


def place(
    monkeypatch: pytest.MonkeyPatch, here: Environment, cloud: bool, **changes: Any
) -> tuple[dict[str, str], int]:
    monkeypatch.setattr("train.placement.this_machine", lambda url: None)
    monkeypatch.setattr("train.placement.detect", lambda probes: here)
    monkeypatch.setattr("train.placement.cores_here", lambda: here.cores)
    settings = Settings.model_validate(CLOUD if cloud else {})
    found = choose_place(config(**changes), settings)
    assert found.is_remote == bool(found.labels)
    assert found.resources == {"CPU": float(found.threads)}
    return found.labels, found.threads


def test_a_small_mac_trains_on_spot_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(monkeypatch, MAC, cloud=True) == (SPOT_LABEL, 4)
    assert place(monkeypatch, MAC, cloud=True, allow_local=True) == ({}, 8)
    assert place(monkeypatch, MAC, cloud=True, placement="local") == ({}, 8)
    with pytest.raises(SettingsError, match="kept for inference, and no cloud is set up"):
        place(monkeypatch, MAC, cloud=False)


@pytest.mark.parametrize("cache", ["references", "memory://references"])
def test_a_reference_is_kept_where_the_workers_are(cache: str) -> None:
    given = config(preference={"reference_cache": cache})
    check_reference(Place(2), given)
    check_reference(Place(2, labels=SPOT_LABEL), config(preference={}))
    if "://" in cache:
        check_reference(Place(2, labels=SPOT_LABEL), given)
        return
    told = "cannot reach references; set preference.reference_cache to a bucket"
    with pytest.raises(SettingsError, match=told):
        check_reference(Place(2, labels=SPOT_LABEL), given)


def test_workers_with_gpus_meet_through_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("cuda", "NVIDIA H200", 140 * GIBIBYTE)
    for gpus, expected in (((), "gloo"), ((gpu,), "nccl")):
        here = dataclasses.replace(LARGE, gpus=gpus)
        monkeypatch.setattr("train.placement.this_machine", lambda url: None)
        monkeypatch.setattr("train.placement.detect", lambda probes, here=here: here)
        found = choose_place(config(shards=2, workers=2), Settings())
        assert (found.use_gpu, found.collectives) == (bool(gpus), expected)


def test_others_train_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(monkeypatch, SMALL, cloud=True) == (SPOT_LABEL, 4)
    assert place(monkeypatch, SMALL, cloud=False) == ({}, 2)
    assert place(monkeypatch, LARGE, cloud=True) == ({}, 8)
    assert place(monkeypatch, LARGE, cloud=True, placement="spot") == (SPOT_LABEL, 4)
    assert place(monkeypatch, LARGE, cloud=False, shards=4, workers=4) == ({}, 2)
    with pytest.raises(SettingsError, match="placement is 'spot' and no cloud"):
        place(monkeypatch, LARGE, cloud=False, placement="spot")
