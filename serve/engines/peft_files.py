"""peft's LoRA adapters: their files, read and checked, for whatever engine computes them.

What peft writes names tensors as transformers' modules are named. R ranks, K inputs, N outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ironcliw.adapter_record import ADAPTER_FILES
from ironcliw.errors import AdapterError, ModelLoadError
from ironcliw.json_files import read_object
from native_ops.decoder_adapters import LowRank

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


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of an adapter that can be computed beside others.

    Raises:
        AdapterError: it is absent, or of another kind of adapter.
    """
    try:
        config = read_object(folder / ADAPTER_FILES[0])
    except ModelLoadError as error:
        raise AdapterError(str(error)) from error
    _check_kind(folder, config)
    return dict(config)


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


def read_modules(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """A and B of each module that is changed, by its name without what stands before all names.

    Raises:
        AdapterError: the file is damaged, or holds more than LoRA.
    """
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


def low_rank(
    folder: Path,
    config: Mapping[str, Any],
    module: str,
    halves: Mapping[str, torch.Tensor],
    outputs: int,
    inputs: int,
) -> LowRank:
    """What an adapter adds to a module's matrix [N, K].

    Args:
        folder: Of the adapter, for messages.
        config: Its adapter_config.json.
        module: The module's name.
        halves: Its A and B.
        outputs: N.
        inputs: K.

    Raises:
        AdapterError: the shapes are not those of the model.
    """
    if halves.keys() != {"A", "B"}:
        raise AdapterError(
            f"{folder / ADAPTER_FILES[1]}: of {module} only lora_{''.join(halves)} is there; "
            "publish the adapter again"
        )
    a, b = halves["A"], halves["B"]
    rank = int(_of_pattern(config, "rank_pattern", module, config.get("r")))
    if tuple(a.shape) != (rank, inputs) or tuple(b.shape) != (outputs, rank):
        raise AdapterError(
            f"{folder}: {module} has A {list(a.shape)} and B {list(b.shape)}; rank {rank} on this "
            f"model asks for {[rank, inputs]} and {[outputs, rank]}: it belongs to another model, "
            "or its files do not belong together"
        )
    alpha = float(_of_pattern(config, "alpha_pattern", module, config.get("lora_alpha")))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LowRank(a, b, scale)


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
