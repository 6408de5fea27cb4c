"""Memory of the controller and of a worker's agent, and the time of the provider's own tests."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.cluster_scaling import THEME, TWO_SECONDS
from benchmarks.harness import BenchmarkError, Goal, NotRun, Options, Row, Samples
from benchmarks.machine import ROOT
from cluster.testing.bed import bed
from ironcliw.settings import process_environment

_MEGABYTE = 1e6
_SETTLE_SECONDS = 10.0
_TESTS = (
    "tests/unit/cluster/test_provider.py",
    "tests/unit/cluster/launch",
    "tests/unit/cluster/gce",
)
_WAIT = """
@ray.remote(resources={"spot": 1}, num_cpus=1)
def wait():
    import time
    time.sleep(60)
ray.get(wait.remote())
"""


def size_rows(options: Options) -> list[Row]:
    """What looks after the machines must not need one of its own.

    Raises:
        BenchmarkError: the tests fail, or the test bed did not come up.
    """
    controller, agent = _memory()
    goal = Goal(120.0, at_most=True)
    return [
        Row(THEME, "controller", "MB PSS", Samples.of([controller]), goal=goal),
        Row(THEME, "agent of a worker", "MB PSS", Samples.of([agent]), goal=goal),
        Row(
            THEME,
            "tests of provider, launcher and Compute client",
            "s",
            NotRun("no tests in this installation") if not (ROOT / "tests").exists() else _tests(),
            goal=Goal(30.0, at_most=True),
        ),
    ]


def _memory() -> tuple[float, float]:
    """Proportional set sizes while a worker is at work, once both have settled."""
    with (
        tempfile.TemporaryDirectory(prefix="ironcliw-bench-") as folder,
        bed(Path(folder), timings=TWO_SECONDS) as cluster,
    ):
        cluster.driver(_WAIT)
        cluster.wait_for(lambda: cluster.told("joined"), 90, "a worker")
        time.sleep(_SETTLE_SECONDS)
        [agent] = _running("cluster.vm.agent")
        return _pss(cluster.controller.pid), _pss(agent.pid)


def _running(module: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "-m" in line and module in line and "python" in Path(line[0]).name:
                found.append(process)
    return found


def _pss(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().pss) / _MEGABYTE


def _tests() -> Samples:
    with tempfile.TemporaryDirectory(prefix="ironcliw-bench-") as folder:
        # a folder of its own: pytest would first remove what earlier runs of other tests left
        options = ["-q", "-p", "no:cacheprovider", f"--basetemp={folder}/tests"]
        command = [sys.executable, "-m", "pytest", *options, *_TESTS]
        begun = time.monotonic()
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=process_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.monotonic() - begun
    if ran.returncode:
        raise BenchmarkError(f"the tests fail, so their time says nothing: {ran.stdout[-2000:]}")
    return Samples.of([took])
