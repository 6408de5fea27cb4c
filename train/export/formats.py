"""A run's result, an adapter or a model written in the format that somebody else reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from ironcliw.errors import SettingsError, UnsupportedError
from ironcliw.settings import Settings
from native_ops.gguf_export import check_architecture, export_gguf
from native_ops.gguf_export_plan import BLOCKS, GgufQuantization
from train.copying import copy_folder
from train.export.merge import write_merged
from train.export.merged_model import encoder_of, transformer_folder
from train.export.source import Source, open_source
from train.export.target import whole
from train.model.sizes import read_sizes

Format = Literal["gguf", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
ALIASES: dict[str, GgufQuantization] = {"int8": "q8_0", "int4": "q4_1"}
"""What our engines call 8bit and 4bit: with these the file has what they would round to 4 bits."""
QUANTIZATIONS: tuple[str, ...] = (*get_args(GgufQuantization), *ALIASES)


def export(
    wanted: str,
    target: Path,
    settings: Settings,
    *,
    form: str,
    quantization: str | None = None,
    base: str | None = None,
    force: bool = False,
) -> Source:
    """Write a model, merged first where it is an adapter.

    Args:
        wanted: As `open_source`.
        target: File (gguf) or folder (safetensors) to write.
        settings: Of the head.
        form: One of `FORMATS`.
        quantization: One of `QUANTIZATIONS`, for gguf; None: q8_0.
        base: As `open_source`.
        force: Replace what is at the target.

    Returns:
        What was exported; its paths may be gone.

    Raises:
        SettingsError: an unknown format or quantization, or there is no such model.
        UnsupportedError: the format cannot hold the model.
        AdapterError: the adapter was trained on another base.
        ConflictError: the target exists.
        StoreError: the target cannot be written.
        ModelLoadError: files are absent or damaged.
    """
    kind = _quantization(form, quantization)
    with (
        open_source(wanted, settings, base) as source,
        whole(target, force=force, room=_room(source, kind)) as work,
    ):
        if kind is not None:
            _check_gguf(source)  # an adapter takes its time to be merged
        folder = source.model
        if source.adapter is not None:
            # beside the target: a machine's folder for what is temporary may be its memory
            folder = work if kind is None else work.parent / "merged"
            folder.mkdir()
            write_merged(source, folder)
        elif kind is None:
            copy_folder(source.model, work)
        if kind is not None:
            export_gguf(folder, work, kind, name=source.name)
        return source


def _check_gguf(source: Source) -> None:
    if encoder_of(source.model) is not None:
        raise UnsupportedError(
            f"{source.name} makes vectors of texts, and as GGUF are written models that write; "
            "export it with --format safetensors"
        )
    check_architecture(source.model)


def default_target(source: str, form: str, quantization: str | None) -> Path:
    """Where an export goes that is given no place."""
    name = Path(source.rstrip("/")).name.replace(":", "-").removesuffix(".gguf")
    kind = _quantization(form, quantization)
    return Path(name) if kind is None else Path(f"{name}.{kind.upper()}.gguf")


def _quantization(form: str, given: str | None) -> GgufQuantization | None:
    """None for a folder of safetensors."""
    if form not in FORMATS:
        raise SettingsError(f"--format is {form!r}; known are {', '.join(FORMATS)}")
    if form == "safetensors":
        if given is not None:
            raise SettingsError(
                f"--quantization is {given!r}, and a folder of safetensors is not quantised: our "
                "engines do that when they load it (quantization = '8bit' or '4bit'); leave it "
                "out, or take --format gguf"
            )
        return None
    name = ALIASES.get(given or "q8_0", given or "q8_0")
    for known in get_args(GgufQuantization):
        if name.lower() == known:
            found: GgufQuantization = known
            return found
    raise SettingsError(f"--quantization is {given!r}; known are {', '.join(QUANTIZATIONS)}")


def _room(source: Source, kind: GgufQuantization | None) -> int:
    """Bytes on the target's disk, those of the merged model on the way included."""
    sizes = read_sizes(transformer_folder(source.model))
    if sizes is None:
        return 0
    if kind is None:
        return sizes.stored
    block = BLOCKS[kind.upper()]
    file = sizes.weights * block.nbytes // block.elements
    return file + (sizes.stored if source.adapter is not None else 0)
