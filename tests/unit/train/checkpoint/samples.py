"""Runs' snapshots for tests, each a pure function of its step, and what a store must give back."""

from __future__ import annotations

import math
from typing import Any

import torch

from train.checkpoint.snapshot import Checkpoint, Snapshot
from train.fingerprint import Fingerprint

FINGERPRINT = Fingerprint(
    model="small",
    model_digest="a" * 64,
    data_digest="b" * 64,
    config_digest="c" * 64,
    torch_version="2.13.0",
    torch_build="d" * 64,
    transformers="5.23.0",
    peft="0.21.0",
    processor="vendor_id GenuineIntel, cpu family 6, model 143",
    torch_level="AVX512",
    native_level="amx",
    threads=2,
    device="cpu",
    dtype="float32",
    attention="sdpa",
    micro_batch_tokens=1024,
    shards=4,
    loss_head_tile=2048,
    loss_head_rows=512,
    world_size=0,
)


def snapshot(step: int) -> Snapshot:
    """Two files of tensors and a state; no two steps share a value."""
    # not random: random numbers may differ from one instruction set to another
    values = torch.arange(24.0) / 7 + step
    tensors = {
        "adapter/layers.0.q.A": values.reshape(4, 6),
        "adapter/layers.0.q.B": values.bfloat16().reshape(6, 4),
        "optimizer/layers.0.q.A/exp_avg": -values.reshape(4, 6),
        "optimizer/layers.0.q.A/step": torch.tensor(float(step)),
    }
    state: dict[str, Any] = {"log": {"losses": [math.log(step + 2), 0.1]}, "chain": f"{step:064x}"}
    return Snapshot(step, tensors, state, FINGERPRINT)


def assert_is(checkpoint: Checkpoint | None, step: int) -> None:
    """Every bit of the checkpoint is that of the snapshot of this step."""
    expected = snapshot(step)
    assert checkpoint is not None
    assert checkpoint.step == step
    assert checkpoint.state == expected.state
    assert checkpoint.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        found = checkpoint.tensors[name]
        assert found.dtype == tensor.dtype, name
        assert torch.equal(found, tensor), name
