"""What a checkpoint holds, before it is written and after it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from train.fingerprint import Fingerprint

if TYPE_CHECKING:
    from train.checkpoint.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run between two optimizer steps.

    Attributes:
        step: Optimizer steps done.
        tensors: By name. The part before the first "/" names the file: "adapter/..." goes to
            adapter.safetensors, "optimizer/..." to optimizer.safetensors.
        state: Scheduler, log state, hash chain: what JSON can hold without loss (strings, finite
            and other floats, integers, booleans, None, lists, dictionaries with string keys).
        fingerprint: What the run's numbers depend on.
    """

    step: int
    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    state: Mapping[str, Any] = field(repr=False)
    fingerprint: Fingerprint = field(repr=False)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A snapshot as it was read back, every byte compared with its manifest.

    Attributes:
        step: Optimizer steps done.
        tensors: By name, on the CPU.
        state: As it was saved.
        manifest: With the fingerprint under which it was saved.
        location: Where it lies, for messages.
        inexact: Why going on from it gives other bits; empty where it gives the same.
    """

    step: int
    tensors: dict[str, torch.Tensor] = field(repr=False)
    state: dict[str, Any] = field(repr=False)
    manifest: Manifest = field(repr=False)
    location: str
    inexact: tuple[str, ...] = ()
