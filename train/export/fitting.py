"""Whether an adapter's tensors belong to a base, from the headers of both. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironcliw.adapter_record import ADAPTER_FILES
from ironcliw.errors import AdapterError, UnsupportedError
from ironcliw.json_files import read_object
from train.model.sizes import read_shapes

_PREFIX = "base_model.model."
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_BODIES = ("model.", "bert.", "roberta.", "distilbert.", "transformer.")
"""What transformers puts before the names of a model's layers where it has a head, else not."""
_SHARED = ("embed_tokens", "lm_head", "wte")


def check_fits(adapter: Path, base: Path, called: str) -> None:
    """Refuse what would be merged into the wrong weights.

    Args:
        adapter: Folder of peft's files.
        base: Folder of a model in Hugging Face's format.
        called: The base, for messages.

    Raises:
        AdapterError: the base lacks a matrix that the adapter changes, or has it in another size.
        UnsupportedError: it is no LoRA, or changes what is more than a matrix.
        ModelLoadError: files are absent or damaged.
    """
    config = read_object(adapter / ADAPTER_FILES[0])
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(
            f"{adapter} is a {config.get('peft_type')} adapter; LoRA, rsLoRA and DoRA are merged"
        )
    model = read_object(base / "config.json")
    ours = read_shapes([adapter / ADAPTER_FILES[1]])
    stored = read_shapes(sorted(base.glob("*.safetensors")))
    theirs = {_bare(name): shape for name, shape in stored.items()}
    for name, shape in ours.items():
        module, part = _split(name)
        _check_shared(adapter, module, model)
        if part is None:
            raise UnsupportedError(
                f"{adapter} has a tensor {name!r}, which is no part of a matrix's LoRA; it cannot "
                "be merged"
            )
        _check_shape(adapter, module, part, shape, theirs, called)


def _split(name: str) -> tuple[str, str | None]:
    module = name.removeprefix(_PREFIX)
    for part in (_A, _B, _MAGNITUDE):
        if module.endswith(part):
            return module.removesuffix(part), part
    return module, None


def _check_shared(adapter: Path, module: str, model: Mapping[str, Any]) -> None:
    shared = next((part for part in module.split(".") if part in _SHARED), None)
    if shared is not None and model.get("tie_word_embeddings"):
        raise UnsupportedError(
            f"{adapter} changes {shared}, whose weights are embedding and head at once; merged, "
            "both would change: train again without it in lora_targets"
        )


def _check_shape(
    adapter: Path,
    module: str,
    part: str,
    shape: tuple[int, ...],
    theirs: Mapping[str, tuple[int, ...]],
    called: str,
) -> None:
    name = f"{module}.weight"
    found = theirs.get(_bare(name))
    if found is None:
        raise _other(adapter, f"which has no {name}", called)
    ours = shape[1] if part == _A else shape[0]
    # GPT-2's layers hold their weights transposed
    inputs = found[0] if ".c_" in name else found[1]
    outputs = found[1] if ".c_" in name else found[0]
    expected = inputs if part == _A else outputs
    if ours != expected:
        what = "inputs" if part == _A else "outputs"
        raise _other(adapter, f"whose {name} has {expected} {what}, not {ours}", called)


def _bare(name: str) -> str:
    for body in _BODIES:
        name = name.removeprefix(body)
    return name


def _other(adapter: Path, why: str, called: str) -> AdapterError:
    return AdapterError(
        f"{adapter} is no adapter of {called}, {why}; give the model that it was trained on as "
        "--base",
        code="adapter_of_other_base",
    )
