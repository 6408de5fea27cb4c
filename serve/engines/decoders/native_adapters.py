"""peft's LoRA adapters for the compiled decoder step: read, checked against the model, packed.

What peft writes names tensors as transformers' modules are named; a matrix of the plan comes from
rows of such a module (`native_model.Rows`), so its change comes from the same rows of B. R ranks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ironcliw.adapter_record import ADAPTER_FILES
from ironcliw.errors import AdapterError, ModelLoadError
from ironcliw.json_files import read_object
from native_ops.decoder_adapters import LowRank, PackedAdapter, pack_adapter
from serve.engines.decoders.native_model import NativeModel, Rows

_FRONT = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
_UNSERVED = {
    "use_dora": "its weights also depend on the norm of the base's (DoRA)",
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "lora_bias": "it has biases (lora_bias)",
    "layer_replication": "it repeats layers (layer_replication)",
    "trainable_token_indices": "it changes embeddings (trainable_token_indices)",
    "alora_invocation_tokens": "it begins in the middle of a prompt (aLoRA)",
}
"""Keys of adapter_config.json that make an adapter more than low-rank changes."""
_MERGE = "merge it into its base (`ironcliw train merge`) and serve that as a model of its own"


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
    try:
        config = read_object(folder / ADAPTER_FILES[0])
    except ModelLoadError as error:
        raise AdapterError(str(error)) from error
    _check_kind(folder, config)
    modules = _modules(folder)
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


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(
            f"{folder / ADAPTER_FILES[0]}: peft_type is {kind!r}; only LoRA is served: {_MERGE}"
        )
    reasons = [why for key, why in _UNSERVED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        reasons.append(f"it trains biases (bias = {config['bias']!r})")
    if reasons:
        raise AdapterError(
            f"{folder}: {reasons[0]}, which cannot be computed beside other adapters; {_MERGE}",
            code="adapter_unsupported",
        )


def _modules(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """A and B of each module that is changed, by its name without what stands before all names."""
    file = folder / ADAPTER_FILES[1]
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{file} is damaged ({error}); publish the adapter again") from error
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = _TENSOR.fullmatch(name.removeprefix(_FRONT))
        if found is None:
            raise AdapterError(
                f"{file}: tensor {name!r} is neither an A nor a B of LoRA; {_MERGE}",
                code="adapter_unsupported",
            )
        # GPT-2's modules are named without it in checkpoints of the bare model
        module = found["module"].removeprefix("transformer.")
        modules.setdefault(module, {})[found["half"]] = tensor
    if not modules:
        raise AdapterError(f"{file} holds no tensors; publish the adapter again")
    return modules


def _change(
    folder: Path,
    config: Mapping[str, Any],
    module: str,
    halves: Mapping[str, torch.Tensor],
    source: Rows,
    size: tuple[int, int],
) -> LowRank:
    if halves.keys() != {"A", "B"}:
        raise AdapterError(
            f"{folder / ADAPTER_FILES[1]}: of {module} only lora_{''.join(halves)} is there; "
            "publish the adapter again"
        )
    a, b = halves["A"], halves["B"]
    rank = int(_of_pattern(config, "rank_pattern", module, config.get("r")))
    outputs, inputs = source.total or size[0], size[1]
    if tuple(a.shape) != (rank, inputs) or tuple(b.shape) != (outputs, rank):
        raise AdapterError(
            f"{folder}: {module} has A {list(a.shape)} and B {list(b.shape)}; rank {rank} on this "
            f"model asks for {[rank, inputs]} and {[outputs, rank]}: it belongs to another model, "
            "or its files do not belong together"
        )
    alpha = float(_of_pattern(config, "alpha_pattern", module, config.get("lora_alpha")))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LowRank(a, b[source.first : source.first + size[0]], scale)


def _of_pattern(config: Mapping[str, Any], key: str, module: str, default: Any) -> float:
    """A module's own value: patterns are the ends of names, as peft reads them."""
    patterns = config.get(key) or {}
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            default = value
            break
    if type(default) not in (int, float) or not math.isfinite(default) or default <= 0:
        raise AdapterError(
            f"adapter_config.json: {key.removesuffix('_pattern')} of {module} is {default!r}; a "
            "number above 0 is expected"
        )
    return float(default)
