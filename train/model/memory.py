"""What a run needs of memory, from the model's configuration and headers, before it is loaded.

W weights of the model, P trained numbers, T tokens of a micro-batch, L layers, D hidden size,
F width of the feed-forward layers, b bytes of a number in the run's precision:

    frozen weights   W b; none where all of them are trained
    trained          P (4 value + 4 gradient + 8 AdamW's moments + 4 for each shard kept
                        + 12 for the copy that a checkpoint is written from)
    activations      T L (13 D + 3 F) b, and T L (4 D + F) b more with dropout; with
                        checkpointing T L D b, and those of one layer
    loss             T D (b + 4) for the gradient of the hidden states; logits are never held

It is an estimate and not a bound: allocators keep some more.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ironcliw.errors import ModelLoadError, TrainingError
from ironcliw.json_files import read_object
from train.config import TrainingConfig

_TRAINED_BYTES = 4 + 4 + 8 + 12
_KEPT_BYTES = 4
_HIDDEN_COPIES, _WIDTH_COPIES = 13, 3
"""Kept of a layer for its backward pass; of one in `fast_layers` it is some 7 and 3."""
_HEADROOM = 256 * 2**20
"""For the allocator, and what libraries load when they are first used."""
_NO_ADAPTER = ("embed", "wte", "wpe", "lm_head")
"""Parts of the names of matrices that are not a linear layer below the head."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Of a model that was not loaded.

    Attributes:
        shapes: Name of each stored tensor to its shape.
        layers: Number of layers.
        hidden: Width of the hidden states.
        width: Of the feed-forward layers.
    """

    shapes: Mapping[str, tuple[int, ...]]
    layers: int
    hidden: int
    width: int

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
            for name, shape in self.shapes.items()
            if len(shape) == 2 and _is_target(name, config)
        )


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a worker needs.

    Attributes:
        weights: Of the frozen weights.
        trained: Of what is trained, with gradient, optimizer and copies.
        activations: Of a micro-batch.
    """

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, with some headroom."""
        return self.weights + self.trained + self.activations + _HEADROOM


def read_sizes(folder: Path) -> ModelSizes | None:
    """From config.json and the headers of the safetensors files; None where there are none.

    Raises:
        ModelLoadError: a file is damaged.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, described in _header(file).items():
            if name != "__metadata__":
                shapes[name] = tuple(described["shape"])
    config = read_object(folder / "config.json")
    config = config.get("text_config", config)
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers")
    if not shapes or hidden is None or layers is None:
        return None
    width = _first(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    return ModelSizes(shapes, layers, hidden, width)


def estimate(
    sizes: ModelSizes, config: TrainingConfig, dtype: torch.dtype, workers: int = 1
) -> Need:
    """What one worker needs.

    Args:
        sizes: Of the model.
        config: Of the run.
        dtype: Of the weights and the products.
        workers: Over which the shards are spread.
    """
    number = dtype.itemsize
    kept = -(-config.shards // workers)
    tokens, hidden = config.micro_batch_tokens, sizes.hidden
    layer = (_HIDDEN_COPIES * hidden + _WIDTH_COPIES * sizes.width) * number
    if config.use_lora and config.lora_dropout:
        layer += (4 * hidden + sizes.width) * number
    if config.gradient_checkpointing:
        activations = tokens * (sizes.layers * hidden * number + layer)
    else:
        activations = tokens * sizes.layers * layer
    return Need(
        weights=sizes.weights * number if config.use_lora else 0,
        trained=sizes.trained(config) * (_TRAINED_BYTES + _KEPT_BYTES * kept),
        activations=activations + tokens * hidden * (number + 4),
    )


def check_memory(
    name: str,
    sizes: ModelSizes,
    config: TrainingConfig,
    dtype: torch.dtype,
    available: int,
    workers: int = 1,
) -> Need:
    """The estimate, if there is so much.

    Args:
        name: Of the model, for the message.
        sizes: Of the model.
        config: Of the run.
        dtype: Of the weights and the products.
        available: Bytes.
        workers: Over which the shards are spread.

    Raises:
        TrainingError: there is not; the message says what would fit.
    """
    need = estimate(sizes, config, dtype, workers)
    if need.total <= available:
        return need
    fits = [
        words
        for words, changes in _smaller(config)
        if estimate(sizes, config.model_copy(update=changes), dtype, workers).total <= available
    ]
    advice = (
        f"it would fit with {fits[0]}"
        if fits
        else "no setting of the run makes it fit: take a smaller model, or a larger machine"
    )
    raise TrainingError(
        f"model {name!r} in {str(dtype).removeprefix('torch.')} needs about {_gb(need.total)} and "
        f"{_gb(available)} are available (frozen weights {_gb(need.weights)}, what is trained "
        f"{_gb(need.trained)}, a micro-batch {_gb(need.activations)}); {advice}",
        code="out_of_memory",
    )


def available_bytes(device: torch.device, cgroup: Path = _CGROUP) -> int:
    """Memory that a worker can still take: the GPU's, or the machine's and its container's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    left = _cgroup_left(cgroup)
    return free if left is None else min(free, left)


def _cgroup_left(folder: Path) -> int | None:
    """Of the container's limit, what is not in use; None where there is no limit (cgroup v2)."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    # the cache of files goes when memory is needed
    return int(limit) - used + int(stat.get("inactive_file", 0))


def _smaller(config: TrainingConfig) -> list[tuple[str, dict[str, Any]]]:
    """Changes that need less, the cheapest first, in words and as keys."""
    halves = []
    tokens = config.micro_batch_tokens // 2
    while tokens >= 64:
        halves.append((f"micro_batch_tokens: {tokens}", {"micro_batch_tokens": tokens}))
        tokens //= 2
    found: list[tuple[str, dict[str, Any]]] = list(halves)
    again = {"gradient_checkpointing": True}
    if not config.gradient_checkpointing:
        found.append(("gradient_checkpointing: true", again))
        found += [(f"gradient_checkpointing: true and {w}", {**again, **c}) for w, c in halves]
    if not config.use_lora:
        found += [("use_lora: true", {"use_lora": True})]
        found += [
            (f"use_lora: true, {words}", {"use_lora": True, **changes}) for words, changes in found
        ]
    return found


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


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
