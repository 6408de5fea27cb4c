"""An adapter merged into its base: a model of its own, in Hugging Face's format."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from ironcliw import __version__
from ironcliw.adapter_record import adapter_digest
from ironcliw.errors import ModelLoadError, SettingsError
from ironcliw.file_digests import weights_digest
from ironcliw.json_files import read_object
from ironcliw.settings import Settings
from train.embedding.encoder import save_whole
from train.export.merged_model import encoder_of, merged_model, transformer_folder
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

    Of an encoder it is the folder in sentence-transformers' format: pooling, prompts and window are
    those that the adapter is served with.

    Raises:
        AdapterError: the adapter belongs to another base.
        UnsupportedError: the adapter or the base is of a kind that is not merged.
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
    encoder = encoder_of(source.model)
    base = source.model if encoder is None else encoder.transformer
    model = merged_model(base, source.adapter, source.base, is_encoder=encoder is not None)
    if precision != "auto":
        model.to(_DTYPES[precision])
    with _disk_errors():
        if encoder is None:
            _write_causal(source, model, folder)
        else:
            save_whole(encoder, model.state_dict(), folder)
            _write_dtype(model, folder / base.relative_to(source.model))
    _write_record(source, model, folder)


def _write_causal(source: Source, model: Any, folder: Path) -> None:
    model.config.name_or_path = source.name
    model.save_pretrained(folder)
    for name in _BESIDE_WEIGHTS:
        if (source.model / name).is_file():
            shutil.copyfile(source.model / name, folder / name)
    write_template(source, folder)


def _write_dtype(model: Any, folder: Path) -> None:
    """An encoder's configuration is a copy, and says how wide the weights of its base were."""
    file = folder / "config.json"
    config = dict(read_object(file))
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = str(model.dtype).removeprefix("torch.")
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """safetensors raises a class of its own for a disk that is full, with the number as text."""
    try:
        yield
    except Exception as error:  # of safetensors' boundary; others go on as they are
        number = re.search(r"os error (\d+)", str(error))
        if isinstance(error, OSError) or number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _write_record(source: Source, model: Any, folder: Path) -> None:
    assert source.adapter is not None
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


def write_template(source: Source, folder: Path) -> None:
    """Write the chat template that a run was given in place of the model's own, if it was.

    Raises:
        ModelLoadError: it was a file, which is gone.
    """
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
    sizes = read_sizes(transformer_folder(model))
    if sizes is None:
        return 0
    return sizes.stored if precision == "auto" else sizes.weights * _DTYPES[precision].itemsize
