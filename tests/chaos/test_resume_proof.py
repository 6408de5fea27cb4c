"""A minute of `make prove-resume`, in a process of its own: it forks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.machine import ROOT
from benchmarks.resume_proof import Found, render
from ironcliw.settings import process_environment


@pytest.mark.timeout(300)
def test_killed_runs_have_the_bits_of_undisturbed_ones_and_mistakes_show() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.resume_proof", "--slice"],
        cwd=ROOT,
        env=process_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| LoRA, dropout | 6 |" in done.stdout
    assert done.stdout.count("| other bits |") == 3  # the table's head and two mistakes
    assert "told, and the one before it used" in done.stdout


def test_what_differs_is_told() -> None:
    found = Found("LoRA", kills=3, runs=2, differing=["killed at renamed (exit 0)"], lost=2)
    report = render([found], {"the log begins anew": ""}, 12.0)
    assert "| LoRA | 2 | 3 | 0 | 1 | 2; 0 |" in report
    assert "- LoRA: killed at renamed (exit 0)" in report
    assert "**nothing: it does not show**" in report
