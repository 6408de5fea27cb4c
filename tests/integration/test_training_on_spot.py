"""A run of training whose Spot machine is taken back: it goes on on another, to the same bits.

A real head with its autoscaler and controller, a fake cloud whose machines really join, their real
agents, a bucket behind a real client, and the run as a job that brings its own code.
"""

from __future__ import annotations

import json
import pickle
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.testing.bed import Bed, bed
from cluster.testing.faults import Preempt
from tests.integration.test_training import ROOT, make_model
from tests.unit.train.checkpoint.object_server import Objects, serve_objects

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NOTICE_SECONDS, EPOCHS, NOTICED_STEP = 120.0, 20, 7
SAVE_SECONDS = 2.0
"""Beside a micro-batch, which takes a fraction of a second here."""
PROGRAM = """
import json, pickle, sys
from pathlib import Path
from train.config import make_config
from train.trainer import Trainer

settings, given, data = pickle.loads(Path({given!r}).read_bytes())
say = lambda kind, text: print(kind, text, flush=True)
config = make_config(given, "the test's run")
trainer = Trainer(config, settings, lambda report: say("step", report.step))
result = trainer.train(data)
say("chain", result.chain)
"""


@dataclass
class Place:
    """The cluster, the bucket, and what is trained."""

    cluster: Bed
    objects: Objects
    folder: Path

    def begin(self, name: str) -> subprocess.Popen[str]:
        storage = f"gs://anonymous@bucket/{name}?endpoint_override=127.0.0.1:{self.objects.port}"
        given = {
            "name": name,
            "model_name": str(self.folder / "model"),
            "precision": "fp32",
            "batch_size": 4,
            "micro_batch_tokens": 256,
            "num_epochs": EPOCHS,
            "lora_rank": 4,
            "lora_dropout": 0.1,
            "placement": "spot",
            "checkpoint": {"storage": f"{storage}&scheme=http", "every": 100},
            "data": {"eval_share": 0.1, "max_length": 256},
        }
        rows = str(self.folder / "rows.jsonl")
        kept = self.folder / f"{name}.pickle"
        kept.write_bytes(pickle.dumps((self.cluster.settings, given, rows)))
        return self.cluster.driver(
            PROGRAM.format(given=str(kept)), {"working_dir": str(self.folder / "package")}
        )

    def result(self, name: str) -> tuple[bytes, bytes]:
        """The adapter and the log."""
        content = self.objects.content
        files = ("adapter/adapter_model.safetensors", "log.jsonl")
        adapter, log = (content[f"{name}/{file}"] for file in files)
        return adapter, log


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    make_model(tmp_path / "model")
    rows = [{"prompt": f"{n} + 1 = ", "completion": str(n + 1) * 4} for n in range(20)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    (tmp_path / "package").mkdir()
    for name in ("cluster", "ironcliw", "native_ops", "train"):
        (tmp_path / "package" / name).symlink_to(ROOT / name)
    cloud = {
        "machine_type": "e2-highmem-2",
        "notice_seconds": int(NOTICE_SECONDS),
        "idle_minutes": 10.0,
        "join_seconds": 200.0,
    }
    with serve_objects() as objects, bed(tmp_path, cloud=cloud, longest_seconds=800) as cluster:
        yield Place(cluster, objects, tmp_path)


def said(driver: subprocess.Popen[str], kind: str, output: list[str]) -> Iterator[str]:
    """What a driver says of one kind, as it says it; all of it is kept for a failure."""
    assert driver.stdout is not None
    for line in driver.stdout:
        output.append(line)
        if line.startswith(f"{kind} "):
            yield line.split()[1]


def agent_events(cluster: Bed, name: str) -> dict[str, float]:
    """The kinds of events that a machine's agent told on its console, and when first."""
    found: dict[str, float] = {}
    for line in cluster.vms.serial(name).splitlines():
        if line.startswith("{"):
            event: dict[str, Any] = json.loads(line)
            found.setdefault(str(event["kind"]), float(event["at"]))
    return found


def test_a_noticed_run_goes_on_elsewhere_with_the_same_bits(place: Place) -> None:
    cluster, output = place.cluster, list[str]()
    whole = place.begin("whole")
    steps = [int(step) for step in said(whole, "step", output)]
    assert whole.wait(60) == 0, "".join(output) + cluster.logs()
    assert steps == list(range(1, len(steps) + 1))
    (first,) = cluster.live()

    noticed = place.begin("noticed")
    for step in said(noticed, "step", output):
        if int(step) == NOTICED_STEP:
            break
    cluster.world.add(Preempt(notice=NOTICE_SECONDS, name=first))
    seen = [int(step) for step in said(noticed, "step", output)]
    assert noticed.wait(60) == 0, "".join(output) + cluster.logs()

    # none was done twice, and none is missing
    assert seen == list(range(NOTICED_STEP + 1, len(steps) + 1))
    told = agent_events(cluster, first)
    assert told["hook_done"] - told["preempted"] <= SAVE_SECONDS
    assert told["power_off"] - told["preempted"] < NOTICE_SECONDS
    assert first not in cluster.live()
    assert len(cluster.inserts()) == 2
    # it was saved in the middle, which nothing but the notice asks for
    attempts = [key for key in place.objects.asked if "noticed/checkpoints/step-" in key]
    assert any(f"step-{len(steps):08d}" not in key for key in attempts)
    assert place.result("noticed") == place.result("whole")
