"""peft's LoRA adapters for the compiled decoder step: read, checked against the model, packed.

What peft writes names tensors as transformers' modules are named; a matrix of the plan comes from
rows of such a module (`native_model.Rows`), so its change comes from the same rows of B. R ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ironcliw.errors import AdapterError
from native_ops.decoder_adapters import LowRank, PackedAdapter, pack_adapter
from serve.engines.decoders.native_model import NativeModel, Rows
from serve.engines.peft_files import low_rank, read_config, read_modules


@dataclass(frozen=True, slots=True, eq=False)
class NativeAdapter:
    """An adapter in memory; engines' figures, so that it is kept and counted as they are.

    Attributes:
        packed: For the compiled step.
        precision: Of its numbers.
    """

    packed: PackedAdapter
    precision: str
    device: str = "cpu"

    @property
    def resident_bytes(self) -> int:
        """Held in memory."""
        return self.packed.nbytes

    def close(self) -> None:
        """Nothing to do: the memory goes with the last step that uses it."""


def read_adapter(model: NativeModel, folder: Path, dtype: torch.dtype) -> NativeAdapter:
    """An adapter's files for a model; blocking, for tens of milliseconds.

    Args:
        model: The base.
        folder: With adapter_config.json and adapter_model.safetensors.
        dtype: Of its numbers in memory: float32 or bfloat16.

    Raises:
        AdapterError: damaged files, another kind of adapter, or not one of this model.
    """
    config = read_config(folder)
    modules = read_modules(folder)
    changes: dict[str, LowRank] = {}
    used: set[str] = set()
    for part, source in model.matrices.items():
        module = source.name.removesuffix(".weight")
        if (halves := modules.get(module)) is not None and part.startswith("layers."):
            changes[part] = _change(folder, config, module, halves, source, model.size(part))
            used.add(module)
    if unused := sorted(modules.keys() - used):
        raise AdapterError(
            f"{folder}: it changes {unused[0]}, which is no matrix of a layer of this model; it "
            "belongs to another model, or changes the embedding or the head: train it on this "
            "model's layers"
        )
    try:
        packed = pack_adapter(model.shape, changes, dtype)
    except ValueError as error:
        raise AdapterError(
            f"{folder}: {error}; it belongs to another model, or its files are damaged"
        ) from error
    return NativeAdapter(packed, str(dtype).removeprefix("torch."))


def _change(
    folder: Path,
    config: Mapping[str, Any],
    module: str,
    halves: Mapping[str, torch.Tensor],
    source: Rows,
    size: tuple[int, int],
) -> LowRank:
    outputs = source.total or size[0]
    a, b, scale = low_rank(folder, config, module, halves, outputs, size[1])
    return LowRank(a, b[source.first : source.first + size[0]], scale)
