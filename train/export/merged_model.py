"""A model with an adapter's change in its own weights, in memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ironcliw.adapter_record import ADAPTER_FILES
from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import AdapterError, ModelLoadError, UnsupportedError
from ironcliw.json_files import read_object
from train.embedding.encoder import ARCHITECTURES
from train.model.sizes import read_shapes


def encoder_of(model: Path) -> EncoderFolder | None:
    """What the folder of an embedding model says; None: it is no embedding model.

    Raises:
        ModelLoadError: files are absent or damaged.
    """
    if not (model / "modules.json").is_file():
        config = read_object(model / "config.json")
        if config.get("model_type") not in ARCHITECTURES or config.get("is_decoder"):
            return None
    return EncoderFolder.read(model)


def transformer_folder(model: Path) -> Path:
    """Where config.json and the weights of a model's layers are.

    Raises:
        ModelLoadError: files are absent or damaged.
    """
    encoder = encoder_of(model)
    return model if encoder is None else encoder.transformer


@torch.no_grad()
def merged_model(base: Path, adapter: Path, called: str, *, is_encoder: bool) -> Any:
    """transformers' model with the adapter's change in its own weights.

    Weights are as wide as in their files; each changed one is computed in float32 and rounded once.

    Args:
        base: Folder in Hugging Face's format.
        adapter: Folder of peft's files that belong to it.
        called: The base, for messages.
        is_encoder: Whether the base makes vectors; else it is a causal language model.

    Raises:
        AdapterError: the adapter has tensors that the model does not take, or lacks some.
        UnsupportedError: the base is neither.
        ModelLoadError: files are absent or damaged.
    """
    import peft
    from peft.tuners.lora import LoraLayer

    try:
        bare = _loaded(base, called, is_encoder=is_encoder)
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5 for a property by its old name
            warnings.simplefilter("ignore", FutureWarning)
            # and only warns of what `_check_taken` refuses
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            model: Any = peft.PeftModel.from_pretrained(bare, str(adapter))
            _check_taken(model, adapter, called)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, AdapterError | UnsupportedError):
            raise
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


def _loaded(base: Path, called: str, *, is_encoder: bool) -> Any:
    import transformers

    loader: Any = transformers.AutoModel
    if not is_encoder:
        loader = transformers.AutoModelForCausalLM
        config = transformers.AutoConfig.from_pretrained(base)
        if type(config) not in loader._model_mapping:
            raise UnsupportedError(
                f"{called} is a {config.model_type}; adapters are merged into causal language "
                "models and into embedding models"
            )
    return loader.from_pretrained(base, dtype="auto")


def _check_taken(model: Any, adapter: Path, called: str) -> None:
    """A module that finds no tensor of its own would stay as it was, without an error."""
    import peft

    taken = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    there = set(read_shapes([adapter / ADAPTER_FILES[1]]))
    if taken == there:
        return
    unused, absent = sorted(there - taken), sorted(taken - there)
    why = []
    if unused:
        why.append(f"{len(unused)} of its tensors have no place there, such as {unused[0]}")
    if absent:
        why.append(f"{len(absent)} that it needs are absent, such as {absent[0]}")
    raise AdapterError(
        f"{adapter} does not belong to {called}: {' and '.join(why)}; give the model that it was "
        "trained on as --base, or train it again",
        code="adapter_of_other_base",
    )
