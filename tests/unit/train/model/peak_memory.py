"""The peak of a run's memory, measured in processes of its own: `python -m
tests.unit.train.model.peak_memory FOLDER MODEL JSON RANK` prints measured and estimated bytes.

What is imported before the run is not counted: the libraries' own memory is no part of the need.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from train.environment import ALLOCATOR, run_environment

VOCABULARY = 4096
ROW_TOKENS = 256


def measure(folder: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """Measured and estimated bytes of a run of three steps; of several workers the largest."""
    words = [sys.executable, "-m", __name__, str(folder), str(model), json.dumps(changes)]
    # as a run's workers have it: what the allocator keeps is part of the peak
    in_pieces = "sharding" in changes
    allocator = run_environment({}, in_pieces=in_pieces)[ALLOCATOR]
    environment = {**os.environ, ALLOCATOR: allocator}
    workers = [
        subprocess.Popen(
            [*words, str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(changes.get("workers", 1))
    ]
    try:
        told = [worker.communicate(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, errors) in zip(workers, told, strict=True):
        assert worker.returncode == 0, errors[-3000:]
    found: list[dict[str, Any]] = [json.loads(printed.splitlines()[-1]) for printed, _ in told]
    return max(found, key=lambda each: int(each["measured"]))


def make_large_model(folder: Path, **changes: Any) -> Path:
    """Some 30 million random weights: enough that they and not the libraries are what counts."""
    import torch
    import transformers

    torch.manual_seed(0)
    given = {
        "vocab_size": VOCABULARY,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        **changes,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**given))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {key}")


def _rows(pairs: bool) -> Any:
    from train.data.masks import TokenRow
    from train.data.tokenized import TokenizedData

    random = np.random.default_rng(0)
    made = []
    for _ in range(24):
        tokens = random.integers(0, VOCABULARY, ROW_TOKENS).astype(np.int32)
        third = ROW_TOKENS // 3
        borders = (third, 2 * third) if pairs else None
        made.append(TokenRow(tokens, np.arange(ROW_TOKENS) >= third, borders))
    return TokenizedData.of_rows(made, [(0, at + 1) for at in range(24)], ["rows.jsonl"])


def _meet(folder: Path, rank: int, workers: int) -> Any:
    """The workers of a run; None: there is one."""
    if workers == 1:
        return None
    import torch

    from train.loop.reduce import ProcessGroup

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=workers
    )
    return ProcessGroup()


def main(folder: Path, model: Path, changes: dict[str, Any], rank: int) -> None:
    import peft  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import train.sharding.assembly  # noqa: F401
    from tests.unit.train.tiny import make_job
    from train.model.load import choose_device, choose_dtype
    from train.model.memory import estimate
    from train.model.sizes import read_sizes
    from train.worker import work

    given = {"micro_batch_tokens": 2 * ROW_TOKENS, "batch_size": 4, "max_steps": 3, **changes}
    job = make_job(folder, model, **given)
    job = dataclasses.replace(job, train=_rows(pairs="preference" in changes))
    torch.set_num_threads(job.threads)
    before = torch.randn(64, 64) @ torch.randn(64, 64)
    assert before.isfinite().all()
    sizes = read_sizes(model)
    assert sizes is not None
    wide = choose_dtype(job.config.precision, choose_device())
    dtype = wide if job.config.use_lora else torch.float32
    need = estimate(sizes, job.config, dtype, job.config.workers)
    group = _meet(folder, rank, job.config.workers)
    base = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, proc(5)
    work(job, group)
    if rank == 0:
        outcome = json.loads((Path(job.uri) / "outcome.json").read_text())
        assert outcome["outcome"] == "finished", outcome
    found = {"measured": _status("VmHWM") - base, **dataclasses.asdict(need), "total": need.total}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))
