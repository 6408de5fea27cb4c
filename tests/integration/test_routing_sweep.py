"""A sweep on a real Ray Tune: trials and the whole sweep are killed, and go on where they were."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import ray
from pathlib import Path
from rl.__main__ import main

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])
code = main(["sweep", sys.argv[2], "--results", sys.argv[3]])
ray.shutdown()
sys.exit(code)
"""
TRAINER = '''
"""A training whose state is a number: it shows what is done again."""
import os, signal, time
from pathlib import Path

def train(values, folder, rounds, tell):
    state = folder / "round"
    done = int(state.read_text()) if state.exists() else 0
    trace = Path(values["trace"])
    for number in range(done + 1, rounds + 1):
        with trace.open("a") as file:
            file.write(f"{values['rate']} {number}\\n")
        state.write_text(str(number))
        tell(number, 1.0 - values["rate"] * number)
        once = Path(values["once"])
        if number == 2 and values["kills"] and not once.exists():
            once.touch()
            if values["kills"] == "sweep":
                time.sleep(13)  # Tune notes the sweep's state every ten seconds
            driver = int(once.with_suffix(".pid").read_text())
            os.kill(driver if values["kills"] == "sweep" else os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def temporary() -> Iterator[Path]:
    # short: it becomes part of a socket's path
    folder = Path(tempfile.mkdtemp(prefix="icw-rls-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(tmp_path: Path, kills: str) -> Path:
    (tmp_path / "sweep_trainer.py").write_text(TRAINER)
    file = tmp_path / "sweep.toml"
    file.write_text(
        f'name = "made"\ntrainer = "sweep_trainer:train"\nrounds = 4\nscheduler = "none"\n'
        f'storage = "{tmp_path}/storage"\nconcurrent = 1\n'
        f'[fixed]\ntrace = "{tmp_path}/trace"\nonce = "{tmp_path}/once"\nkills = "{kills}"\n'
        "[space]\nrate = [0.01, 0.02]\n"
    )
    return file


def _run(tmp_path: Path, temporary: Path, file: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PROGRAM, str(temporary), str(file), str(tmp_path / "results")]
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        (tmp_path / "once.pid").write_text(str(process.pid))
        out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def _trace(tmp_path: Path) -> list[str]:
    return (tmp_path / "trace").read_text().splitlines()


WHOLE = [f"{rate} {number}" for rate in (0.01, 0.02) for number in (1, 2, 3, 4)]


def test_a_trial_that_is_killed_goes_on(tmp_path: Path, temporary: Path) -> None:
    done = _run(tmp_path, temporary, _sweep(tmp_path, "trial"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = _trace(tmp_path)
    assert sorted(set(lines)) == WHOLE
    # the round before the kill may not have been taken in: it alone is done again
    assert len(lines) <= len(WHOLE) + 1
    found = json.loads((tmp_path / "results" / "results.json").read_text())["trials"]
    assert [one["state"] for one in found] == ["finished", "finished"]
    assert found[0]["point"] == {"rate": 0.02}
    assert found[0]["ratios"]["4"] == pytest.approx(0.92)
    assert (tmp_path / "results" / "results.svg").is_file()


def test_the_learning_of_the_readme_runs_from_a_relative_path(
    tmp_path: Path, temporary: Path
) -> None:
    pytest.importorskip("torch", reason="needs the extra rl")
    shutil.copy(ROOT / "rl" / "regimes" / "light.toml", tmp_path / "mine.toml")
    file = tmp_path / "sweep.toml"
    file.write_text(
        f'name = "own"\nrounds = 1\nstorage = "{tmp_path}/storage"\nconcurrent = 1\n'
        '[fixed]\nregimes = ["mine.toml"]\ndecisions = 30\nvalidation = 1\nepochs = 1\n'
        "members = 1\nhorizon = 600.0\nrandomised = 0.0\nmargins = [0.3]\n"
        "[space]\nwidth = [8]\n"
    )
    done = _run(tmp_path, temporary, file)
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = json.loads((tmp_path / "results" / "results.json").read_text())["trials"]
    assert (found["state"], found["point"]) == ("finished", {"width": 8})


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on(tmp_path: Path, temporary: Path) -> None:
    file = _sweep(tmp_path, "sweep")
    assert _run(tmp_path, temporary, file).returncode == -9
    done = _run(tmp_path, temporary, file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(set(_trace(tmp_path))) == WHOLE
    assert len(_trace(tmp_path)) <= len(WHOLE) + 2
    file.write_text(file.read_text().replace("rounds = 4", "rounds = 5"))
    other = _run(tmp_path, temporary, file)
    assert other.returncode == 1
    assert "sweep made was begun with other values of rounds" in other.stderr
