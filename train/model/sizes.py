"""How large a model is, from its configuration and the headers of its files, unloaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironcliw.errors import ModelLoadError
from ironcliw.json_files import read_object
from train.config import TrainingConfig

_NO_ADAPTER = ("embed", "wte", "wpe", "lm_head")
"""Parts of the names of matrices that are not a linear layer below the head."""
_CONV1D = ("c_attn", "c_proj", "c_fc")
"""GPT-2's layers, which take adapters and are not packed."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Of a model that was not loaded.

    Attributes:
        shapes: Name of each stored tensor to its shape.
        layers: Number of layers.
        hidden: Width of the hidden states.
        width: Of the feed-forward layers.
        stored: Bytes of the tensors in the files; 0: not known.
    """

    shapes: Mapping[str, tuple[int, ...]]
    layers: int
    hidden: int
    width: int
    stored: int = 0

    @property
    def weights(self) -> int:
        """Numbers in all."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def trained(self, config: TrainingConfig) -> int:
        """Numbers that a run changes; of an adapter rank x (inputs + outputs) a matrix."""
        if not config.use_lora:
            return self.weights
        return sum(
            config.lora_rank * sum(shape) + (max(shape) if config.use_dora else 0)
            for shape in self.adapted(config)
        )

    def adapted(self, config: TrainingConfig) -> list[tuple[int, ...]]:
        """Shapes of the matrices that get an adapter."""
        return [
            shape
            for name, shape in self.shapes.items()
            if config.use_lora and len(shape) == 2 and _is_target(name, config)
        ]

    @property
    def outside_layers(self) -> int:
        """Numbers of embedding and head."""
        return sum(
            math.prod(shape)
            for name, shape in self.shapes.items()
            if any(part in name for part in _NO_ADAPTER)
        )

    @property
    def linear(self) -> list[int]:
        """Numbers of each matrix of a linear layer below the head: those that nf4 packs."""
        return [
            math.prod(shape)
            for name, shape in self.shapes.items()
            if len(shape) == 2 and not any(part in name for part in (*_NO_ADAPTER, *_CONV1D))
        ]


def read_sizes(folder: Path) -> ModelSizes | None:
    """From config.json and the headers of the safetensors files; None where there are none.

    Raises:
        ModelLoadError: a file is damaged.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    stored = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, described in _header(file).items():
            if name != "__metadata__":
                shapes[name] = tuple(described["shape"])
                first, last = described["data_offsets"]
                stored += last - first
    config = read_object(folder / "config.json")
    config = config.get("text_config", config)
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers")
    if not shapes or hidden is None or layers is None:
        return None
    width = _first(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    return ModelSizes(shapes, layers, hidden, width, stored)


def read_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of some safetensors files, from their headers.

    Raises:
        ModelLoadError: a file is absent or damaged.
    """
    return {
        name: tuple(described["shape"])
        for file in files
        for name, described in _header(file).items()
        if name != "__metadata__"
    }


def _is_target(name: str, config: TrainingConfig) -> bool:
    if any(part in name for part in _NO_ADAPTER):
        return False
    module = name.removesuffix(".weight")
    targets = config.lora_targets
    return targets == "all-linear" or any(
        module == target or module.endswith(f".{target}") for target in targets
    )


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            return dict(json.loads(stream.read(length)))
    except (OSError, ValueError, struct.error) as error:
        raise ModelLoadError(
            f"{file} is no whole safetensors file ({error}); fetch the model again"
        ) from error


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((config[key] for key in keys if type(config.get(key)) is int), None)
