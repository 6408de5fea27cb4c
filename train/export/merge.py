"""An adapter merged into its base: a model of its own, in Hugging Face's format."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from ironcliw import __version__
from ironcliw.adapter_record import adapter_digest
from ironcliw.errors import ModelLoadError, SettingsError
from ironcliw.file_digests import weights_digest
from ironcliw.settings import Settings
from train.export.source import Source, open_source
from train.export.target import whole
from train.model.sizes import read_sizes

FORMAT_VERSION = 1
RECORD = "merged.json"
Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BESIDE_WEIGHTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
)
"""Files of a model that merging does not change."""

logger = logging.getLogger(__name__)


def merge(
    wanted: str,
    target: Path,
    settings: Settings,
    *,
    base: str | None = None,
    precision: Precision = "auto",
    force: bool = False,
) -> Source:
    """Write a trained adapter and its base as one model.

    Args:
        wanted: As `open_source`; with an adapter.
        target: The folder to write.
        settings: Of the head.
        base: As `open_source`.
        precision: Of the weights; auto: that of the base's files.
        force: Replace what is at the target.

    Returns:
        What was merged; its paths may be gone.

    Raises:
        SettingsError: there is no such adapter.
        AdapterError: the adapter was trained on another base.
        UnsupportedError: the adapter is of a kind that is not merged.
        ConflictError: the target exists.
        StoreError: the target cannot be written.
        ModelLoadError: files are absent or damaged.
    """
    with open_source(wanted, settings, base) as source:
        if source.adapter is None:
            raise SettingsError(
                f"{wanted} is a model without an adapter: there is nothing to merge; "
                "`ironcliw train export` writes it in another format"
            )
        with whole(target, force=force, room=_size(source.model, precision)) as work:
            work.mkdir()
            write_merged(source, work, precision)
        return source


def write_merged(source: Source, folder: Path, precision: Precision = "auto") -> None:
    """Write the merged model into a folder that is there and empty.

    Raises:
        ModelLoadError: files are absent or damaged.
        OSError: it cannot be written.
    """
    assert source.adapter is not None, f"{source.name} has no adapter"
    quantization = source.config.get("quantization")
    if quantization:
        logger.warning(
            "%s was trained on weights of %s and is merged into those of the files, to which they "
            "were rounded: measure it again",
            source.name,
            quantization,
        )
    model = merged_model(source.model, source.adapter)
    if precision != "auto":
        model.to(_DTYPES[precision])
    model.config.name_or_path = source.name
    try:
        model.save_pretrained(folder)
    except Exception as error:
        # safetensors raises a class of its own for a disk that is full, with the number as text
        number = re.search(r"os error (\d+)", str(error))
        if isinstance(error, OSError) or number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    for name in _BESIDE_WEIGHTS:
        if (source.model / name).is_file():
            shutil.copyfile(source.model / name, folder / name)
    _write_template(source, folder)
    record = {
        "format_version": FORMAT_VERSION,
        "made_by": __version__,
        "name": source.name,
        "base": Path(source.base).name,
        "base_digest": weights_digest(source.model),
        "adapter_digest": adapter_digest(source.adapter),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def merged_model(base: Path, adapter: Path) -> Any:
    """transformers' model with the adapter's change in its own weights.

    Weights are as wide as in their files; each changed one is computed in float32 and rounded once.

    Args:
        base: Folder in Hugging Face's format.
        adapter: Folder of peft's files that belong to it.

    Raises:
        ModelLoadError: files are absent or damaged.
    """
    import peft
    import transformers
    from peft.tuners.lora import LoraLayer

    try:
        loader: Any = transformers.AutoModelForCausalLM
        bare = loader.from_pretrained(base, dtype="auto")
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5 for a property by its old name
            warnings.simplefilter("ignore", FutureWarning)
            model: Any = peft.PeftModel.from_pretrained(bare, str(adapter))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ModelLoadError(
            f"{adapter} cannot be loaded upon {base} ({error}); see that the files of both are "
            "whole"
        ) from error
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        weight: Any = layer.get_base_layer().weight
        dtype = weight.dtype
        weight.data = weight.data.float()
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise ModelLoadError(f"{adapter} cannot be merged: {error}; train it again") from error
        weight = layer.get_base_layer().weight
        weight.data = weight.data.to(dtype)
    return model.unload()


def _write_template(source: Source, folder: Path) -> None:
    """The chat template that the run was given, in place of the model's own."""
    given = source.chat_template
    if given is None:
        return
    if given.endswith(".jinja"):
        path = Path(given).expanduser()
        if not path.is_file():
            raise ModelLoadError(
                f"{source.name} was trained with the chat template {given}, which is not here; put "
                "it there"
            )
        given = path.read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(given, encoding="utf-8")


def _size(model: Path, precision: Precision) -> int:
    """Bytes of the merged weights."""
    sizes = read_sizes(model)
    if sizes is None:
        return 0
    return sizes.stored if precision == "auto" else sizes.weights * _DTYPES[precision].itemsize
