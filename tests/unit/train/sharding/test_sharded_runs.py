"""A model in pieces is trained to the same bits by any number of workers, killed or not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import ROOT
from ironcliw.settings import process_environment

HASH = re.compile(r"[0-9a-f]{64}")


def _run(folder: Path, program: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.train.sharding.sharded_runs", str(folder), program],
        cwd=ROOT,
        env=process_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _equal(results: list[str]) -> None:
    for each in results:
        assert HASH.fullmatch(each), each
    assert len(set(results)) == 1


@pytest.mark.timeout(300)
def test_any_number_of_workers_gives_the_same_bits(tmp_path: Path) -> None:
    found = _run(tmp_path, "same_for_any_number")
    for results in found.values():
        _equal(results)
    assert found["LoRA"] != found["all weights"]
    assert found["LoRA"][0] != found["another seed"][0], "the bits tell nothing apart"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_preferences_give_the_same_bits(tmp_path: Path) -> None:
    for results in _run(tmp_path, "preferences").values():
        _equal(results)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_in_pieces_learns_what_the_whole_one_does(tmp_path: Path) -> None:
    for pieces, whole in _run(tmp_path, "as_the_whole").values():
        assert len(pieces) == len(whole) == 5
        assert pieces == pytest.approx(whole, rel=1e-4)
        assert abs(whole[-1] - whole[0]) > 0.01 * whole[0], "nothing was learned"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_was_killed_goes_on_with_any_number_of_workers(tmp_path: Path) -> None:
    for results in _run(tmp_path, "resumes").values():
        _equal(results)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_goes_wrong_is_found_out(tmp_path: Path) -> None:
    found = _run(tmp_path, "troubles")
    assert HASH.fullmatch(found["expected"]), found["expected"]
    assert found["flipped"] == found["expected"]
    assert "DAMAGED CHECKPOINT" in found["flipped, told"]
    assert "shard_1_of_2.safetensors is damaged" in found["flipped, told"]
    assert "sharding: fsdp when saved, none here" in found["whole model"]
    assert found["noticed"] == 1, "the notice was not seen"
    assert found["noticed on the way"] == [1, 0]
    assert found["after a notice"] == found["expected"]
    for rank in (0, 1):
        code, failed = found[f"worker {rank} killed"]
        assert code != 0
        assert not failed, "a lost worker must not be the run's end"
