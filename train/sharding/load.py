"""A model in pieces: made without weights, cut by FSDP2, and each worker's rows read from disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ironcliw.errors import ModelLoadError, UnsupportedError
from train.config import TrainingConfig
from train.model import packed_attention
from train.model.adapters import add_adapters
from train.model.fused import fuse
from train.model.load import BaseModel, drop_nothing
from train.sharding.gathers import InPlaceAllGather
from train.sharding.skeleton import (
    build_skeleton,
    layers_of,
    replace_forwards_unloaded,
    replace_parameters,
    without_size,
)
from train.sharding.sums import OrderedReduceScatter, Turn
from train.sharding.weights import WeightFiles

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Weight = tuple[str, torch.nn.Module, str]
"""Its name in the files, the module that owns it, and its name there."""


class Root(torch.nn.Module):
    """FSDP2's outermost module: whatever is computed within it finds what all layers share.

    Args:
        model: transformers' or peft's.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Result]) -> Result:
        """What `compute` returns, embedding and head being whole meanwhile."""
        return compute()


@dataclass(frozen=True, slots=True)
class ShardedModel:
    """A model whose weights are spread over the workers.

    Attributes:
        module: transformers' or peft's.
        root: Through which it is computed.
        sums: Of the gradients of its layers.
        turn: Who takes part in a round.
        digest: sha256 of its weights and configuration.
        dtype: Of its frozen weights.
        device: Where the pieces are.
    """

    module: Any
    root: Any
    sums: list[OrderedReduceScatter]
    turn: Turn
    digest: str
    dtype: torch.dtype
    device: torch.device


def give_up_gathered(root: torch.nn.Module) -> None:
    """Let no worker hold more than its pieces, whatever a pass has left gathered."""
    for each in root.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def load_sharded(
    config: TrainingConfig,
    folder: Path,
    digest: str,
    dtype: torch.dtype,
    device: torch.device,
) -> ShardedModel:
    """This worker's pieces of a model, with adapters where the run has them.

    Args:
        config: Of the run.
        folder: Of `model_folder`: files converted from GGUF are read as any others.
        digest: Of the weights.
        dtype: Of the frozen weights.
        device: Where to.

    Raises:
        UnsupportedError: the model cannot be sharded.
        ModelLoadError: its files are damaged, or named otherwise than its modules.
        SettingsError: as `add_adapters`.
    """
    name = config.model_name
    attention = packed_attention.register()
    base = build_skeleton(name, _described(name, folder), dtype, attention)
    drop_nothing(base)
    base.train()
    layers = layers_of(base)
    if not layers:
        raise UnsupportedError(
            f"model {name!r} is a {base.config.model_type}, which does not say what its layers "
            "are; train it with sharding.mode none"
        )
    places = _places(base)
    module, fused = base, 0
    if config.use_lora:
        with without_size(base):
            module = add_adapters(BaseModel(base, folder, digest, dtype), config)
            fused = fuse(module)
    fast = replace_forwards_unloaded(module, dtype, device, layers)
    if config.gradient_checkpointing:
        base.activation_checkpointing_enable()
    root, sums, turn = _cut(module, layers, device, config)
    _fill(name, folder, places)
    logger.info(
        "a piece of model %s in %s on %s, %d groups of layers fused, %d modules compiled",
        name,
        dtype,
        device,
        fused,
        fast,
    )
    return ShardedModel(module, root, sums, turn, digest, dtype, device)


def _described(name: str, folder: Path) -> Any:
    """transformers' configuration of a causal language model."""
    import transformers

    try:
        found = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"model {name!r}: {folder} cannot be loaded ({error})") from error
    if type(found) not in transformers.AutoModelForCausalLM._model_mapping:
        raise UnsupportedError(
            f"model {name!r} is a {found.model_type}; fine-tuning takes causal language models: "
            "give one, such as SmolLM2-135M-Instruct"
        )
    return found


def _fill(name: str, folder: Path, places: list[Weight]) -> None:
    """Read this worker's rows of all weights."""
    rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    with WeightFiles(name, folder) as files:
        files.check([key for key, _, _ in places])
        for key, owner, attribute in places:
            parameter: Any = owner._parameters[attribute]
            local = parameter.detach().to_local()
            files.read_rows(key, local, parameter.shape, rank, workers)


def _places(base: Any) -> list[Weight]:
    """Where the weights of a model are, before adapters wrap them."""
    stored = {id(each): key for key, each in base.named_parameters()}
    found = []
    seen: set[int] = set()
    for owner in base.modules():
        for attribute, parameter in owner._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                found.append((stored[id(parameter)], owner, attribute))
    return found


def _cut(
    module: Any, layers: list[torch.nn.Module], device: torch.device, config: TrainingConfig
) -> tuple[Any, list[OrderedReduceScatter], Turn]:
    """Spread a model over the workers; its weights have memory then, and no values yet."""
    mesh: DeviceMesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    root, turn = Root(module), Turn()
    parts: list[Any] = [
        fully_shard(layer, mesh=mesh, reshard_after_forward=config.sharding.reshard_after_forward)
        for layer in layers
    ]
    parts.append(fully_shard(root, mesh=mesh))
    sums = []
    for part in parts:
        sums.append(OrderedReduceScatter(turn))
        part.set_custom_reduce_scatter(sums[-1])
        if device.type == "cpu":
            part.set_custom_all_gather(InPlaceAllGather())
    # not `to_empty`, which would untie what shares its weights, and forget the adapters' values
    replace_parameters(
        root, lambda each: torch.empty_like(each, device=device) if each.is_meta else each
    )
    return root, sums, turn
