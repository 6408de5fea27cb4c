"""Two minutes of `make prove-workflows`, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.machine import ROOT
from ironcliw.settings import process_environment

pytestmark = pytest.mark.cluster


@pytest.mark.timeout(600)
def test_workflows_and_messages_survive_whatever_is_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.workflow_proof", "--slice"],
        cwd=ROOT,
        env=process_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| workflows of 5 steps | 40 |" in done.stdout
    assert "| workflows completed after that | 40 |" in done.stdout
    assert "| of them lost | 0 |" in done.stdout
    assert "head 1" in done.stdout
