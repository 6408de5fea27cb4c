"""Training data through Ray Data: the same rows, in the same order, as in one process."""

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

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import ray
from ironcliw.settings import load_settings
from train.data import read
from train.data.options import DataOptions
from train.tokenizer import TrainingTokenizer

temporary, chosen = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=temporary)
options = DataOptions.model_validate_json(chosen)
tokenizer = TrainingTokenizer.load("SmolLM2-135M-Instruct", load_settings())
for how in (read.in_process, read.with_ray_data):
    found = read.examine(options, tokenizer, how)
    facts = {
        "digest": found.train.digest,
        "eval": found.eval.digest if found.eval else None,
        "sources": [found.train.source(i) for i in range(len(found.train))],
        "problems": [str(problem) for problem in found.report.problems],
        "rows": found.report.rows,
        "ignored": found.report.ignored,
    }
    print("FOUND", json.dumps(facts))
ray.shutdown()
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    # short: it becomes part of a socket's path
    folder = Path(tempfile.mkdtemp(prefix="icw-data-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_both_ways_give_the_same(tmp_path: Path, temporary: Path) -> None:
    # more than one block of the first file, and what is wrong in the middle of it
    lines = [
        json.dumps({"prompt": f"What is {n} + 1?", "completion": f"It is {n % 97 + 1}.", "id": n})
        for n in range(700)
    ]
    lines[300:302] = ["{", json.dumps({"prompt": "x"})]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.csv").write_text('prompt,completion\nwhy,"because\nof it"\n')
    (tmp_path / "c.jsonl").write_text("")
    # as a URI it is read by whichever worker comes first
    (tmp_path / "d.json").write_text('[{"prompt": "where", "completion": "here"}]')
    names = [str(tmp_path / name) for name in ("b.jsonl", "a.csv", "c.jsonl")]
    chosen = {
        "train": [names[0], f"file://{tmp_path}/d.json", *names[1:]],
        "eval_share": 0.1,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(temporary), json.dumps(chosen)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    found = [
        json.loads(line.removeprefix("FOUND "))
        for line in done.stdout.splitlines()
        if line.startswith("FOUND ")
    ]
    here, over_ray = found
    assert over_ray == here
    assert here["rows"] == 702
    assert [line.partition(": ")[0].rpartition("/")[2] for line in here["problems"]] == [
        "b.jsonl:301",
        "b.jsonl:302",
        "c.jsonl",
    ]
    numbers = [int(source.rpartition(":")[2]) for source in here["sources"] if "b.jsonl" in source]
    assert numbers == sorted(numbers)
    assert 550 < len(numbers) < 698
    assert here["eval"] is not None
