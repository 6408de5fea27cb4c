"""Training on a real Ray: a worker that is killed costs time, and not a bit of the result."""

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

from tests.unit.train.small_tokenizers import byte_tokenizer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, signal, sys, time
import psutil
import ray
from ironcliw import Trainer, TrainingConfig

temporary, model, data, folder, preference = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=temporary)

def workers():
    # Ray writes the class of an actor into its process's title
    return [
        process.pid
        for process in psutil.Process(ray._private.worker._global_node.all_processes["raylet"][0]
            .process.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]

def train(name, at):
    steps, killed = [], []
    def report(step):
        steps.append(step.step)
        if at is not None and step.step >= at and not killed:
            killed.extend(workers())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
    config = TrainingConfig(
        name=name, model_name=model, precision="fp32", batch_size=4, micro_batch_tokens=256,
        num_epochs=10, lora_rank=4, learning_rate=1e-2, allow_local=True, placement="local",
        checkpoint={"storage": f"{folder}/{name}", "every": 2},
        data={"eval_share": 0.1, "max_length": 256}, preference=json.loads(preference),
    )
    result = Trainer(config, report=report).train(data)
    print("FOUND", json.dumps({
        "chain": result.chain, "steps": result.steps, "result": result.result,
        "evaluation": result.evaluation, "before": result.before,
        "reported": steps, "killed": killed,
    }), flush=True)

train("whole", None)
train("broken", 5)
ray.shutdown()
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    # short: it becomes part of a socket's path
    folder = Path(tempfile.mkdtemp(prefix="icw-train-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def make_model(folder: Path) -> None:
    """A decoder of random weights that is slow enough to be hit in the middle of a run."""
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=3,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def _files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


ANSWERS = [{"prompt": f"{n} + 1 = ", "completion": str(n + 1) * 4} for n in range(20)]
PAIRS = [
    {"prompt": f"{n} + 1 = ", "chosen": str(n + 1) * 4, "rejected": str(n) * 3} for n in range(20)
]


# peft 0.21 asks transformers 5 for a property by its old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize(
    ("rows", "preference"),
    [
        pytest.param(ANSWERS, None, id="answers"),
        pytest.param(PAIRS, {"reference": "precomputed"}, id="pairs", marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker_changes_nothing(
    rows: list[dict[str, str]],
    preference: dict[str, str] | None,
    tmp_path: Path,
    temporary: Path,
) -> None:
    make_model(tmp_path / "model")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(temporary),
            str(tmp_path / "model"),
            str(data),
            str(tmp_path),
            json.dumps(preference),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found: list[dict[str, Any]] = [
        json.loads(line.removeprefix("FOUND "))
        for line in done.stdout.splitlines()
        if line.startswith("FOUND ")
    ]
    whole, broken = found
    steps = whole["steps"]
    assert whole["reported"] == list(range(1, steps + 1))
    assert whole["killed"] == []
    # it was killed, and did a step again or went on after a save
    assert len(broken["killed"]) == 1
    attempts = json.loads((tmp_path / "broken" / "attempts.json").read_text())
    assert attempts["step"] > 0
    assert broken["reported"][-1] == steps
    for key in ("chain", "steps", "evaluation", "before"):
        assert broken[key] == whole[key]
    assert whole["evaluation"]["eval_loss"] < whole["before"]["eval_loss"]
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "broken")]
    assert logs[0] == logs[1]
    adapters = [_files(each["result"]) for each in found]
    assert adapters[0]["adapter_model.safetensors"] == adapters[1]["adapter_model.safetensors"]
    _loads_in_peft(tmp_path / "model", Path(broken["result"]))


def _loads_in_peft(model: Path, adapter: Path) -> None:
    import peft
    import torch
    import transformers

    tokens = torch.arange(12)[None]
    base = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    with torch.no_grad():
        before = base(tokens).logits.clone()
        adapted = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
        after = adapted(tokens).logits
    assert torch.isfinite(after).all()
    assert not torch.allclose(before, after, atol=1e-3)
