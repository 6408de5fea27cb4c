"""Sweeps on a real Ray Tune: a trial that is killed, and a sweep that is, cost time alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_training import make_model

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, pathlib, signal, sys
import psutil, ray
from ironcliw.settings import Settings
from train.config_file import validated
from train.sweep.config import SweepConfig
from train.sweep.run import run_sweep

temporary, state, given, kills = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=temporary)

def trials():
    # Ray writes the class of an actor into its process's title
    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
    return [
        process.pid
        for process in psutil.Process(raylet).children(recursive=True)
        if "ImplicitFunc" in " ".join(process.cmdline())
    ]

seen = []

def report(text):
    seen.append(text)
    print("SAID", text, flush=True)
    if kills == "trial" and len(seen) in (2, 4):
        for pid in trials():
            os.kill(pid, signal.SIGKILL)
    if kills == "sweep" and len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

config = validated(SweepConfig, json.loads(pathlib.Path(given).read_text()), "test")
found = run_sweep(config, Settings(state_dir=state), report)
print("FOUND", json.dumps([[t.name, t.state, t.uri, t.error] for t in found]), flush=True)
ray.shutdown()
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    # short: it becomes part of a socket's path
    folder = Path(tempfile.mkdtemp(prefix="icw-tune-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(tmp_path: Path, name: str, **changes: Any) -> Path:
    given = {
        "name": name,
        "run": {
            "model_name": str(tmp_path / "model"),
            "precision": "fp32",
            "batch_size": 4,
            "micro_batch_tokens": 256,
            "num_epochs": 3,
            "lora_rank": 4,
            "allow_local": True,
            "placement": "local",
            "checkpoint": {"every": 1},
            "data": {
                "train": [str(tmp_path / "rows.jsonl")],
                "eval_share": 0.2,
                "max_length": 256,
            },
        },
        "space": {"learning_rate": [1e-2, 1e-3]},
        "scheduler": "none",
        **changes,
    }
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(given))
    return file


def _run(
    tmp_path: Path, temporary: Path, name: str, kills: str, **changes: Any
) -> subprocess.CompletedProcess[str]:
    file = _sweep(tmp_path, name, **changes)
    words = [sys.executable, "-c", PROGRAM, str(temporary), str(tmp_path / "state"), str(file)]
    return subprocess.run(
        [*words, kills],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def _logs(tmp_path: Path, name: str) -> dict[str, tuple[bytes, bytes]]:
    """Log and weights of each trial, by its name."""
    trials = tmp_path / "state" / "sweeps" / name / "trials"
    return {
        folder.name: (
            (folder / "log.jsonl").read_bytes(),
            (folder / "adapter" / "adapter_model.safetensors").read_bytes(),
        )
        for folder in trials.iterdir()
    }


def _found(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    found: list[list[str]] = json.loads(line.removeprefix("FOUND"))
    return found


def test_what_is_killed_ends_with_the_same_bits(tmp_path: Path, temporary: Path) -> None:
    make_model(tmp_path / "model")
    rows = [{"prompt": f"{n} + 1 = ", "completion": str(n + 1) * 4} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = _found(_run(tmp_path, temporary, "whole", "none"))
    assert [trial[1] for trial in whole] == ["finished", "finished"]
    folder = tmp_path / "state" / "sweeps" / "whole"
    results = json.loads((folder / "results.json").read_text())
    assert results["trials"][0]["value"] <= results["trials"][1]["value"]
    assert results["best"] == results["trials"][0]["name"]
    assert (folder / "sweep.png").is_file()
    assert "| finished |" in (folder / "results.md").read_text()
    expected = _logs(tmp_path, "whole")
    # the trial's process dies twice
    _found(_run(tmp_path, temporary, "trial", "trial"))
    assert _logs(tmp_path, "trial") == expected
    # the whole program dies, and is started again under the same name
    died = _run(tmp_path, temporary, "sweep", "sweep")
    assert died.returncode == -9
    again = _run(tmp_path, temporary, "sweep", "none")
    assert [trial[1] for trial in _found(again)] == ["finished", "finished"]
    assert _logs(tmp_path, "sweep") == expected
    # and again: there is nothing left to do
    assert "SAID" not in _run(tmp_path, temporary, "sweep", "none").stdout
    other = _run(tmp_path, temporary, "sweep", "none", seed=5)
    assert "was begun with other values of seed" in other.stderr


def test_worse_trials_end_early_and_broken_ones_fail(tmp_path: Path, temporary: Path) -> None:
    make_model(tmp_path / "model")
    rows = [{"prompt": f"{n} + 1 = ", "completion": str(n + 1) * 4} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = _found(
        _run(
            tmp_path,
            temporary,
            "asha",
            "none",
            space={"learning_rate": [1e-2, 1e-6, 9.9]},
            scheduler="asha",
            reduction_factor=2,
        )
    )
    states = {trial[2].partition("learning_rate-")[2].rpartition("-")[0]: trial for trial in found}
    assert states["0.01"][1] == "finished"
    assert states["1e-06"][1] == "ended early"
    assert states["9.9"][1] in ("failed", "ended early")
