"""Curves of a log: as points, as an event file that TensorBoard reads, as a picture."""

from __future__ import annotations

import dataclasses
import errno
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import CheckpointError
from tests.unit.train.tiny import make_data, make_job, make_model
from tests.waiting import wait_for
from train.loop.log import RunLog
from train.loop.run import StepReport
from train.outcome import read_outcome
from train.run_files import LOG, RunFiles
from train.shown import gauges
from train.shown.curves import Point, points
from train.shown.event_file import NAME, EventFile
from train.shown.plot import draw, means
from train.shown.recorder import Recorder
from train.shown.uploads import Uploads
from train.worker import work

LINES: list[dict[str, Any]] = [
    {"event": "evaluation", "step": 0, "eval_loss": 3.0, "perplexity": 20.1, "eval_rows": 4},
    {"step": 1, "loss": 2.5, "norm": 1.5, "learning_rate": 1e-3, "rows": [1]},
    {"event": "inexact resume", "step": 1, "why": ["x"]},
    {"step": 2, "loss": 2.0, "norm": float("inf"), "learning_rate": 5e-4, "rows": [2]},
]


def read(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Steps and values of an event file, by TensorFlow's format of records and its protocol."""
    return read_bytes(path.read_bytes())


def read_bytes(raw: bytes) -> list[tuple[int, dict[str, float]]]:
    from tensorboardX.proto import event_pb2

    at, found = 0, []
    while at < len(raw):
        (length,) = struct.unpack_from("<Q", raw, at)
        event = event_pb2.Event.FromString(raw[at + 12 : at + 12 + length])
        found.append((event.step, {one.tag: one.simple_value for one in event.summary.value}))
        at += 16 + length
    return found


def test_points() -> None:
    assert list(points(LINES)) == [
        Point("eval/eval_loss", 0, 3.0),
        Point("eval/perplexity", 0, 20.1),
        Point("train/loss", 1, 2.5),
        Point("train/gradient_norm", 1, 1.5),
        Point("train/learning_rate", 1, 1e-3),
        Point("train/loss", 2, 2.0),
        Point("train/learning_rate", 2, 5e-4),
    ]


def test_an_event_file_begun_anew_has_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = EventFile(tmp_path / "a"), EventFile(tmp_path / "b")
    for line in LINES:
        whole.add([line])
    broken.add(LINES[:1])
    broken.add(LINES[1:2])
    broken.close()
    broken = EventFile(tmp_path / "b", LINES[:1])  # after a kill: what the checkpoint's log has
    broken.add(LINES[1:])
    whole.close()
    broken.close()
    assert whole.path.name.startswith("events.out.tfevents")
    assert whole.path.read_bytes() == broken.path.read_bytes()
    found = read(whole.path)
    assert found[0] == (0, {})
    assert found[3] == (1, {"train/loss": pytest.approx(2.5)})
    assert len(found) == 8


def test_the_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(LINES, "run", tmp_path / name)
    raw = (tmp_path / "a.png").read_bytes()
    assert raw.startswith(b"\x89PNG")
    assert struct.unpack(">II", raw[16:24]) == (1080, 600)
    assert raw == (tmp_path / "b.png").read_bytes()
    draw(LINES[1:2], "run", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() != raw
    draw([], "nothing was logged", tmp_path / "d.png")


def test_means() -> None:
    assert means([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
    assert means([1.0, 3.0], 5) == [1.0, 2.0]
    assert means([], 1) == []


def dies_at(step: int) -> Any:
    def report(at: StepReport) -> None:
        if at.step == step:
            raise KeyboardInterrupt

    return report


def test_a_resumed_run_has_the_files_of_an_undisturbed_one(tmp_path: Path) -> None:

    model = make_model(tmp_path / "model")
    jobs = [
        dataclasses.replace(make_job(tmp_path / name, model), held_out=make_data(5, seed=5))
        for name in ("a", "b")
    ]
    work(jobs[0])
    with pytest.raises(KeyboardInterrupt):
        work(jobs[1], report=dies_at(3))
    assert len(read(Path(jobs[1].uri) / "tensorboard" / NAME)) > 6, "it is written while it goes on"
    work(jobs[1])
    for name in (f"tensorboard/{NAME}", "loss.png", "evaluation.md", "evaluation.json"):
        files = [(Path(job.uri) / name).read_bytes() for job in jobs]
        assert files[0] == files[1], name
    log = RunLog((Path(jobs[0].uri) / LOG).read_text())
    assert len(read(Path(jobs[0].uri) / "tensorboard" / NAME)) == 1 + len(list(points(log.lines())))


def test_in_a_bucket_they_come_with_the_result(tmp_path: Path) -> None:

    uri = f"memory://{uuid.uuid4().hex}/run"
    job = make_job(tmp_path, make_model(tmp_path / "model"), max_steps=2)
    work(dataclasses.replace(job, uri=uri))
    outcome = read_outcome(uri)
    assert outcome is not None
    files = RunFiles(uri)._files
    root = uri.removeprefix("memory:/")
    assert files.cat_file(f"{root}/loss.png").startswith(b"\x89PNG")
    assert files.size(f"{root}/tensorboard/{NAME}") > 100


@pytest.mark.parametrize("fails", ["drawing", "uploading"])
@pytest.mark.parametrize("scheme", ["memory:/", ""])
def test_a_picture_that_fails_costs_no_result(
    fails: str,
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(lines: Any, title: str, file: Path) -> None:
        file.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    real = RunFiles.upload_file

    def refuse(self: RunFiles, file: Path, name: str) -> None:
        if name == "loss.png":
            raise CheckpointError("No space left in the bucket")
        real(self, file, name)

    if fails == "drawing":
        monkeypatch.setattr("train.shown.plot.draw", full)
    else:
        monkeypatch.setattr(RunFiles, "upload_file", refuse)
    uri = f"{scheme}{tmp_path}/{uuid.uuid4().hex}/run"
    job = make_job(tmp_path, make_model(tmp_path / "model"), max_steps=1)
    work(dataclasses.replace(job, uri=uri))
    outcome = read_outcome(uri)
    assert outcome is not None and outcome["steps"] == 1
    if scheme:
        assert not RunFiles(uri)._files.exists(f"{uri.removeprefix('memory:/')}/loss.png")
    assert ("No space left" in caplog.text) == (fails == "drawing" or bool(scheme))


def test_in_a_bucket_they_grow_while_the_run_goes_on() -> None:
    uri = f"memory://{uuid.uuid4().hex}/run"
    files = RunFiles(uri)
    place = f"{uri.removeprefix('memory:/')}/tensorboard/{NAME}"

    def steps() -> list[int]:
        stored = files._files.cat_file(place) if files._files.exists(place) else b""
        return [step for step, _ in read_bytes(stored)]

    recorder = Recorder(files, upload_seconds=0.01)
    recorder.begin(LINES[:1])
    recorder.add(LINES[1])
    wait_for(lambda: steps()[-1:] == [1])
    recorder.add(LINES[3])
    wait_for(lambda: steps()[-1:] == [2])
    recorder.close()
    recorder.add(LINES[3])
    assert len(steps()) == 8


@pytest.mark.parametrize("error", [CheckpointError("no room"), OSError("no room")])
def test_an_upload_that_fails_is_told_of_and_made_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[int] = []

    def upload() -> None:
        made.append(1)
        if len(made) == 1:
            raise error

    uploads = Uploads(upload, 0.0)
    uploads.wanted()
    wait_for(lambda: "the curves are not up to date: no room" in caplog.text)
    uploads.wanted()
    wait_for(lambda: len(made) == 2)
    uploads.end()
    uploads.wanted()
    assert len(made) == 2


def test_uploads_leave_time_between_them() -> None:
    made: list[int] = []
    uploads = Uploads(lambda: made.append(1), 600.0)
    for _ in range(100):
        uploads.wanted()
    wait_for(lambda: made)
    uploads.end()
    assert made == [1], "one in ten minutes"


def test_gauges_count_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, float] = {}

    class Gauge:
        def __init__(self, name: str, about: str, tags: tuple[str, ...]) -> None:
            self.name = name.removeprefix("ironcliw_train_")

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tags == {"run": "bot"}
            values[self.name] = value

    monkeypatch.setattr(gauges, "Gauge", Gauge)
    made = gauges.RunGauges("bot")

    def step(number: int, of_attempt: int, save: float | None = None) -> None:
        made.add(StepReport(number, 9, 0, 1.25, 0.5, 1e-4, 100, 0.5, of_attempt, save))

    step(1, 1)
    assert "checkpoint_seconds" not in values, "what is not known is absent, not zero"
    step(2, 2, 0.25)
    step(3, 3, 0.25)
    assert (values["attempts"], values["steps_lost"]) == (1, 0)
    step(2, 1)  # killed after 3, saved after 1
    assert (values["attempts"], values["steps_lost"]) == (2, 2)
    step(3, 1)  # a notice: nothing is done again
    assert (values["attempts"], values["steps_lost"]) == (3, 2)
    assert (values["tokens_per_second"], values["checkpoint_seconds"]) == (200.0, 0.25)
    assert (values["step"], values["steps"], values["loss"]) == (3, 9, 1.25)
