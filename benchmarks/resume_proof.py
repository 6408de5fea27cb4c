"""Is a run that is killed anywhere the run that was not? Weights and log are compared by the byte.

    python -m benchmarks.resume_proof [--slice] [--only WORDS]      (make prove-resume)

Small runs of every kind are killed from outside at random times, from inside at every place of a
checkpoint's commit, and told that their machine is taken back; each goes on until it is done. Then
the same is done with mistakes made on purpose, which must show. The times are drawn from a seed
that the report names; what they hit depends on the machine. What is not shown here: GPUs, buckets
(tests kill saves to stand-ins of them), models of a real size.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import resume_runs as runs
from benchmarks.machine import ROOT, Machine, commit
from benchmarks.resume_mistakes import FSDP_MISTAKES, MISTAKES
from train.checkpoint.faults import LOCAL_POINTS
from train.job import Job
from train.run_files import CHECKPOINTS

SEED = 20_261_123
_DROPOUT = {"lora_dropout": 0.1}
_FSDP: dict[str, Any] = {"sharding": {"mode": "fsdp"}}
CASES: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, dropout": _DROPOUT,
    "LoRA, dropout, many micro-batches": {**_DROPOUT, "micro_batch_tokens": 30, "batch_size": 8},
    "LoRA, dropout, three shards": {**_DROPOUT, "shards": 3},
    "LoRA, dropout, three shards, two workers": {**_DROPOUT, "shards": 3, "workers": 2},
    "LoRA, dropout, layers computed twice": {**_DROPOUT, "gradient_checkpointing": True},
    "LoRA, dropout, bfloat16": {**_DROPOUT, "precision": "bf16"},
    "DoRA": {"use_dora": True},
    "QLoRA, dropout": {**_DROPOUT, "quantization": "nf4"},
    "all weights": {"use_lora": False},
    "FSDP, LoRA, dropout, three shards, two workers": {
        **_DROPOUT,
        **_FSDP,
        "shards": 3,
        "workers": 2,
    },
    "FSDP, all weights, four shards, two workers": {
        **_FSDP,
        "use_lora": False,
        "shards": 4,
        "workers": 2,
    },
    "DPO": {"preference": {}},
    "DPO, three shards, two workers": {"preference": {}, "shards": 3, "workers": 2},
    "DPO, kept reference, three shards": {
        "preference": {"loss": "ipo", "reference": "precomputed"},
        "shards": 3,
    },
    "FSDP, DPO, three shards, two workers": {
        **_FSDP,
        "preference": {},
        "shards": 3,
        "workers": 2,
    },
    "DPO, all weights": {"preference": {"loss": "cdpo", "label_smoothing": 0.1}, "use_lora": False},
    "embeddings, dropout, three lengths": {**_DROPOUT, "embedding": {"matryoshka": [16, 8]}},
    "embeddings, dropout, two shards, two workers": {
        **_DROPOUT,
        "embedding": {},
        "batch_size": 8,
        "shards": 2,
        "workers": 2,
    },
    "embeddings, all weights": {"embedding": {"label_name_share": 0.2}, "use_lora": False},
}
_WRONG_CASE = {**_DROPOUT, "checkpoint": {"every": 1}}
# three rounds a step, the last with one worker idle: of two numbers each order gives the same sum
_WRONG_FSDP_CASE = {
    **_FSDP,
    "use_lora": False,
    "batch_size": 8,
    "shards": 5,
    "workers": 2,
    "checkpoint": {"every": 1},
}
RUNS, KILLS, NOTICES = 5, 4, 2
_FLIPPED = "a byte of the newest checkpoint is flipped"
_THREADS = "two threads instead of one"


@dataclass
class Found:
    """Of one kind of run.

    Attributes:
        name: Of the kind.
        kills: Attempts that were killed.
        notices: Attempts that were told of their machine's end, and left.
        runs: Runs that ended.
        differing: Those of them with other bits than the undisturbed one.
        lost: Most steps that a kill cost.
        lost_at_notice: Most that a notice cost.
    """

    name: str
    kills: int = 0
    notices: int = 0
    runs: int = 0
    differing: list[str] = field(default_factory=list)
    lost: int = 0
    lost_at_notice: int = 0


class Bench:
    """A folder of runs of one kind, and the bits that all of them must have.

    Args:
        folder: Empty.
        model: That they train.
        changes: Of their configuration.
    """

    def __init__(self, folder: Path, model: Path, changes: dict[str, Any]) -> None:
        self._folder, self._model, self._changes = folder, model, changes
        self._count = 0
        # whatever the number of workers, the bits must be those of one
        first, second = self.job(workers=1), self.job()
        assert runs.attempt(first) == 0, "the first run does not end"
        begun = time.monotonic()
        assert runs.attempt(second) == 0
        self.seconds = time.monotonic() - begun
        self.expected = runs.result(first)
        assert runs.result(second) == self.expected, "two undisturbed runs differ"

    def job(self, **changes: Any) -> Job:
        """A new run."""
        self._count += 1
        folder = self._folder / str(self._count)
        return runs.make_job(folder, self._model, {**self._changes, **changes})


def examine(name: str, bench: Bench, draw: random.Random, is_slice: bool) -> Found:
    """Kill runs of one kind, everywhere."""
    found = Found(name)
    for number in range(1 if is_slice else RUNS):
        job = bench.job()
        for _ in range(2 if is_slice else KILLS):
            killed = draw.randrange(job.config.workers)
            after = draw.uniform(0, bench.seconds)
            if runs.attempt(job, kill_after=after, killed=killed) == 0:
                break
            found.kills += 1
            found.lost = max(found.lost, runs.steps_lost(job))
        _end(found, bench, job, f"killed from outside, run {number}", fresh=number == 0)
    points = LOCAL_POINTS[::4] if is_slice else LOCAL_POINTS
    for point in points:
        job = bench.job()
        for visit in (1, 3):
            if runs.attempt(job, point=point, visit=visit) != 0:
                found.kills += 1
                found.lost = max(found.lost, runs.steps_lost(job))
        _end(found, bench, job, f"killed at {point}")
    for number in range(1 if is_slice else NOTICES):
        job = bench.job()
        if runs.attempt(job, notice_after=draw.uniform(0, bench.seconds)) != 0:
            found.notices += 1
            found.lost_at_notice = max(found.lost_at_notice, runs.steps_lost(job))
        _end(found, bench, job, f"noticed, run {number}")
    return found


def _end(found: Found, bench: Bench, job: Job, how: str, *, fresh: bool = False) -> None:
    code = runs.fresh_attempt(job) if fresh else runs.attempt(job)
    found.runs += 1
    if code != 0 or runs.result(job) != bench.expected:
        found.differing.append(f"{how} (exit {code})")


def controls(bench: Bench, names: list[str]) -> dict[str, str]:
    """What becomes of runs with mistakes made on purpose; "" where one does not show.

    Args:
        bench: Of runs with dropout that are saved after every step.
        names: Of the mistakes.
    """
    return {name: _control(bench, name) for name in names}


def _control(bench: Bench, name: str) -> str:
    job = bench.job()
    assert runs.attempt(job, point="root-fsynced", visit=3) != 0
    log = Path(job.uri).parent / "attempts.log"
    if name == _FLIPPED:
        _flip(Path(job.uri) / CHECKPOINTS)
        code = runs.attempt(job)
        told = "DAMAGED CHECKPOINT" in log.read_text()
        same = code == 0 and runs.result(job) == bench.expected
        return "told, and the one before it used" if told and same else ""
    if name == _THREADS:
        runs.attempt(dataclasses.replace(job, threads=2))
        refused = "threads: 1 when saved, 2 here" in log.read_text()
        return "refused" if refused else ""
    code = runs.attempt(job, mistake=(MISTAKES | FSDP_MISTAKES)[name])
    if code != 0:
        return f"fails (exit {code})"
    return "other bits" if runs.result(job) != bench.expected else ""


def _flip(folder: Path) -> None:
    newest = sorted(folder.glob("step-*"))[-1]
    file = max(newest.iterdir(), key=lambda each: each.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def render(found: list[Found], shown: dict[str, str], seconds: float) -> str:
    """The report."""
    machine = Machine.read()
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}"
    lines = [
        "# Proof of exact resume",
        "",
        f"{machine.cpu}; commit {commit()}; {now} UTC; seed {SEED}; {seconds:.0f} s.",
        "",
        "| runs | ended | kills | notices | other bits | most steps lost to a kill; a notice |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.name} | {one.runs} | {one.kills} | {one.notices} | {len(one.differing)} | "
        f"{one.lost}; {one.lost_at_notice} |"
        for one in found
    ]
    kills = sum(one.kills for one in found)
    lines += [
        "",
        f"In all {kills} kills and {sum(one.notices for one in found)} notices. Runs were saved",
        "every 2 steps, in the background.",
        "",
        "| mistake made on purpose | what becomes of it |",
        "|---|---|",
        *(
            f"| {name} | {what or '**nothing: it does not show**'} |"
            for name, what in shown.items()
        ),
        "",
        *(f"- {one.name}: {how}" for one in found for how in one.differing),
    ]
    return "\n".join(lines).rstrip() + "\n"


def chosen_cases(only: str, *, is_slice: bool) -> dict[str, dict[str, Any]]:
    """The kinds of runs that are examined.

    Args:
        only: Words that their names have; empty: all.
        is_slice: Where no words are given, one kind stands for all.
    """
    if is_slice and not only:
        return dict(list(CASES.items())[1:2])
    return {name: changes for name, changes in CASES.items() if only in name}


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ironcliw-proof-") as folder:
        yield Path(folder)


def main() -> int:
    """Print the report, and keep it unless it is of a slice; 1 where anything is not as it must."""
    parser = argparse.ArgumentParser(description="Kills runs of training, and compares their bits.")
    parser.add_argument(
        "--slice",
        action="store_true",
        help="one kind, or those of --only, with some eight kills each; no report is kept",
    )
    parser.add_argument(
        "--only",
        default="",
        help="kinds with these words; or 'mistakes'; no report is kept",
    )
    given = parser.parse_args()
    is_slice, only = given.slice, given.only
    cases = chosen_cases(only, is_slice=is_slice)
    if not cases and only not in "FSDP mistakes":
        parser.error(f"--only {only!r}: no kind has these words; kinds are {'; '.join(CASES)}")
    begun, draw = time.monotonic(), random.Random(SEED)
    names = [*MISTAKES, _FLIPPED, _THREADS]
    with _folder() as folder:
        model = runs.make_model(folder / "model")
        found = [
            examine(name, Bench(folder / str(at), model, changes), draw, is_slice)
            for at, (name, changes) in enumerate(cases.items())
        ]
        shown: dict[str, str] = {}
        if only in "mistakes":
            wrong = Bench(folder / "wrong", model, _WRONG_CASE)
            shown |= controls(wrong, names[::3] if is_slice else names)
        if only in "FSDP mistakes" and (only or not is_slice):
            cut = Bench(folder / "wrong-fsdp", model, _WRONG_FSDP_CASE)
            made = controls(cut, [*FSDP_MISTAKES, _FLIPPED])
            shown |= {f"FSDP: {name}": what for name, what in made.items()}
    report = render(found, shown, time.monotonic() - begun)
    print(report)
    if not is_slice and not only:
        day = datetime.date.today().isoformat()
        place = ROOT / "benchmarks" / "results" / f"resume_{Machine.read().slug}_{day}.md"
        place.write_text(report, encoding="utf-8")
    bad = any(one.differing or one.lost_at_notice for one in found) or not all(shown.values())
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
