"""What a run needs of memory, from the model's configuration and headers, before it is loaded.

W weights of the model, P trained numbers, T tokens of a micro-batch, L layers, D hidden size,
F width of the feed-forward layers, b bytes of a number in the run's precision:

    frozen weights   W b; none where all of them are trained; with nf4 9/16 of a byte for each
                        number of a linear layer, and 6 for each of the largest one, unpacked,
                        in bfloat16 2 more
    trained          P (4 value + 4 gradient + 8 AdamW's moments + 4 for each shard kept
                        + 12 for the copy that a checkpoint is written from), and P b more for
                        adapters in the precision of the products, where that is not float32;
                        where all weights are trained, P 4 for them as they were read; with N
                        workers P 8 N for a shard of each, as torch gathers it and as it gives it
    activations      T L (13 D + 3 F) b, in bfloat16 T L 3 D b more, for what is kept in float32
                        all the same, and T L (4 D + F) b more with dropout; with checkpointing
                        T L D b, and those of three layers: one is computed again while its
                        gradients are, and the one before is not given back yet
                        T r 4 for each matrix with an adapter of rank r
    loading          the weights as their files have them, before nf4 packs them
                        T L (6 D + F) 9 more with nf4 or DoRA, whose adapters are peft's own,
                        and in bfloat16 another 3, since each keeps its input in float32: as
                        measured with nf4, whose peaks in float32 differ by 9 % from run to run
                        by the holes that the allocator leaves
    loss             T D (b + 4) for the gradient of the hidden states; logits are never held

With sharding over N workers: W b / N and P (...) / N, of which 8 more for the sum of a step and
FSDP2's own copy; and what is gathered at a time: embedding and head, and 2 layers' weights, whose
gradients are there three times in float32 (as computed, as sent, as received) where they are
trained. Embedding and head are there twice while they are gathered, before there are activations.
Shards keep no gradient of their own.

It is an estimate and not a bound: allocators keep some more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ironcliw.errors import TrainingError
from train.config import TrainingConfig
from train.model.sizes import ModelSizes
from train.sharding.options import ShardingOptions

_TRAINED_BYTES = 4 + 4 + 8 + 12
_KEPT_BYTES = 4
_MET_BYTES = 4 + 4
"""For each worker: what is gathered, and gloo's own copy; measured, 3.8 copies for two workers."""
_COPIED_BYTES = 4 + 4
"""Of a trained number of a model in pieces: FSDP2's own value, and the sum of a step's rounds."""
_LAYERS_GATHERED = 2
"""At a time: the one that is computed, and the next."""
_HIDDEN_COPIES, _WIDTH_COPIES = 13, 3
"""Kept of a layer for its backward pass; of one in `fast_layers` it is some 7 and 3."""
_ROUNDED_COPIES = 3
_LAYERS_AT_ONCE = 3
_ADAPTED_INPUTS = 6
"""Of the width of the hidden states: q, k, v, o, gate and up; that of down is F wide."""
_NF4_BYTES = 0.5 + 4 / 64
_UNPACKING_BYTES = 2 + 4
"""Of a number while its layer is unpacked: half of a code as an index, and its value in float32."""
HEADROOM = 256 * 2**20
"""For the allocator, and what libraries load when they are first used."""
_WORKERS = (2, 4, 8, 16, 32, 64)
"""Numbers of workers that a message looks at."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a worker needs.

    Attributes:
        weights: Of the frozen weights.
        trained: Of what is trained, with gradient, optimizer and copies.
        activations: Of a micro-batch.
        loading: Of the weights before they are packed, if they are.
        gathered: Of what a worker gathers of a model in pieces.
    """

    weights: int
    trained: int
    activations: int
    loading: int = 0
    gathered: int = 0

    @property
    def total(self) -> int:
        """All of it at the worst moment, with some headroom."""
        return max(self.loading, self._computing) + HEADROOM

    @property
    def _computing(self) -> int:
        return self.weights + self.trained + self.activations + self.gathered


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
    if config.use_lora and (config.quantization or config.use_dora):
        layer += (9 if number == 4 else 12) * (_ADAPTED_INPUTS * hidden + sizes.width)
    if number < 4:
        layer += _ROUNDED_COPIES * hidden * number
    layer += 4 * config.lora_rank * len(sizes.adapted(config)) // sizes.layers
    if config.gradient_checkpointing:
        at_once = min(_LAYERS_AT_ONCE, sizes.layers)
        activations = tokens * (sizes.layers * hidden * number + at_once * layer)
    else:
        activations = tokens * sizes.layers * layer
    weights, loading = sizes.weights * number if config.use_lora else 0, 0
    if config.quantization is not None:
        packed = sum(sizes.linear)
        loading = sizes.stored or weights
        weights += round(packed * (_NF4_BYTES - number))
        weights += max(sizes.linear, default=0) * (_UNPACKING_BYTES + number % 4)
    activations += tokens * hidden * (number + 4)
    trained = sizes.trained(config)
    if config.sharding.is_on:
        return Need(
            weights=-(-weights // workers),
            trained=-(-trained * (_TRAINED_BYTES + _COPIED_BYTES) // workers),
            activations=activations,
            gathered=_gathered(sizes, config, number, activations),
        )
    # full: the allocator keeps what the weights were read into; adapters: cast for the products
    beside = 4 if not config.use_lora else number % 4
    met = _MET_BYTES * workers if workers > 1 else 0
    held = trained * (_TRAINED_BYTES + _KEPT_BYTES * kept + beside + met)
    return Need(weights, held, activations, loading)


def _gathered(sizes: ModelSizes, config: TrainingConfig, number: int, activations: int) -> int:
    """Of what is whole on every worker for a while, so far as it is there with activations."""
    shared = sizes.outside_layers
    layer = (sizes.weights - shared) // max(1, sizes.layers)
    of_layer = _LAYERS_GATHERED * layer * number
    first = (2 * shared + layer) * number - activations
    if config.use_lora:
        return max(shared * number + of_layer, first)
    # the embedding's gradient is there when the layers' are gone
    return max(shared * number + of_layer + 3 * max(layer, shared) * 4, first)


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
    more = _sharded(sizes, config, dtype, available, workers)
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
    pieces = f", what is gathered {_gb(need.gathered)}" if need.gathered else ""
    raise TrainingError(
        f"model {name!r} in {str(dtype).removeprefix('torch.')} needs about {_gb(need.total)} and "
        f"{_gb(available)} are available (frozen weights {_gb(need.weights)}, what is trained "
        f"{_gb(need.trained)}, a micro-batch {_gb(need.activations)}{pieces}); {advice}{more}",
        code="out_of_memory",
    )


def _sharded(
    sizes: ModelSizes, config: TrainingConfig, dtype: torch.dtype, available: int, workers: int
) -> str:
    """What the run would need in pieces, and on how many machines like this one it would fit."""
    if config.quantization or config.use_dora:
        return ""
    cut = config.model_copy(update={"sharding": ShardingOptions(mode="fsdp")})
    counts = [count for count in _WORKERS if count > workers or not config.sharding.is_on]
    for count in counts:
        need = estimate(sizes, cut, dtype, count)
        if need.total <= available or count == counts[-1]:
            fits = "" if need.total <= available else ", which is still too much"
            return (
                f"; with {count} workers and sharding.mode: fsdp each would need about "
                f"{_gb(need.total)}{fits}"
            )
    return ""


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
    if config.use_lora and config.quantization is None:
        packed = {"quantization": "nf4"}
        found += [
            ("quantization: nf4", packed),
            *((f"quantization: nf4, {words}", {**packed, **c}) for words, c in [*found]),
        ]
    if not config.use_lora:
        found += [("use_lora: true", {"use_lora": True})]
        found += [
            (f"use_lora: true, {words}", {"use_lora": True, **changes}) for words, changes in found
        ]
    return found


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
