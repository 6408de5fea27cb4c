"""A trained model in pieces as files of the whole: parameter by parameter, on the first worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from train.sharding.load import ShardedModel, give_up_gathered

FILE_BYTES = 2 << 30
"""Of a file, and so what the first worker holds of the whole at a time."""
_INDEX = "model.safetensors.index.json"


def save_adapter(model: ShardedModel, folder: Path | None) -> None:
    """Write the adapter in peft's format; every worker calls this at the same time.

    Args:
        model: With adapters.
        folder: None: another worker writes it.
    """
    give_up_gathered(model.root)
    named = [pair for pair in model.module.named_parameters() if pair[1].requires_grad]
    whole = {name: tensor for name, tensor in _gathered(named) if folder is not None}
    if folder is not None:
        model.module.save_pretrained(folder, safe_serialization=True, state_dict=whole)


def save_model(
    model: ShardedModel, source: Path, folder: Path | None, file_bytes: int = FILE_BYTES
) -> None:
    """Write the model in Hugging Face's format; every worker calls this at the same time.

    Args:
        model: Without adapters.
        source: The folder that it was read from.
        folder: None: another worker writes it.
        file_bytes: Of a file, about.
    """
    give_up_gathered(model.root)
    held: dict[str, torch.Tensor] = {}
    files: list[list[str]] = []
    total = 0

    def write() -> None:
        assert folder is not None
        save_file(held, folder / _part(len(files)), metadata={"format": "pt"})
        files.append(list(held))
        held.clear()

    for name, tensor in _gathered(list(model.module.named_parameters())):
        if folder is None:
            continue
        held[name] = tensor
        total += tensor.nbytes
        if sum(each.nbytes for each in held.values()) >= file_bytes:
            write()
    if folder is not None:
        if held:
            write()
        _name_files(folder, files, total)
        _describe(model.module, source, folder, model.dtype)


def _gathered(named: list[tuple[str, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each parameter whole, one after the other."""
    for name, parameter in named:
        yield name, parameter.detach().full_tensor().cpu()


def _part(number: int) -> str:
    return f"part-{number:05d}.safetensors"


def _name_files(folder: Path, files: list[list[str]], total: int) -> None:
    """The names that transformers looks for, and which tensor is where."""
    if len(files) == 1:
        (folder / _part(0)).rename(folder / "model.safetensors")
        return
    places: dict[str, str] = {}
    for number, names in enumerate(files):
        called = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        (folder / _part(number)).rename(folder / called)
        places.update(dict.fromkeys(names, called))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _describe(model: Any, source: Path, folder: Path, dtype: torch.dtype) -> None:
    import transformers

    model.config.architectures = [type(model).__name__]
    model.config.dtype = dtype
    model.config.save_pretrained(folder)
    if (source / "generation_config.json").is_file():
        transformers.GenerationConfig.from_pretrained(source).save_pretrained(folder)
