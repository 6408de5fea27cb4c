"""An embedding model from its folder, ready to be trained."""

from __future__ import annotations

from typing import Any

import torch

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import SettingsError
from train.config import TrainingConfig
from train.embedding.encoder import Encoder, pooling_of
from train.model import packed_attention
from train.model.adapters import add_adapters
from train.model.load import BaseModel, damaged, drop_nothing


def load_encoder(
    config: TrainingConfig,
    folder: EncoderFolder,
    digest: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Encoder:
    """Read an encoder for training; its attention is over packed rows.

    Args:
        config: Of the run.
        folder: Of the model.
        digest: Of `weights_digest`.
        dtype: Of the frozen weights, and of the products.
        device: Where to.

    Raises:
        UnsupportedError: it is of an architecture, or has modules, that are not trained.
        ModelLoadError: its files are damaged.
        SettingsError: the run asks for lengths or layers that the model has not.
    """
    import transformers

    check_encoder(config, folder)
    attention = packed_attention.register_encoder()
    try:
        loader: Any = transformers.AutoModel
        body = loader.from_pretrained(
            folder.transformer, dtype=dtype, attn_implementation=attention
        )
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise damaged(config.model_name, folder.transformer, error) from error
    body.to(device)
    drop_nothing(body)
    body.train()
    # no vector depends on it: it would get adapters that learn nothing
    pooler = getattr(body, "pooler", None)
    if pooler is not None:
        body.pooler = None
    if config.gradient_checkpointing:
        body.activation_checkpointing_enable()
    base = BaseModel(body, folder.transformer, digest, dtype)
    module = add_adapters(base, config, task="FEATURE_EXTRACTION") if config.use_lora else body
    return Encoder(module, folder, pooler)


def check_encoder(config: TrainingConfig, folder: EncoderFolder) -> None:
    """See by a model's folder alone that it can be trained as a run asks for.

    Args:
        config: Of the run.
        folder: Of the model.

    Raises:
        UnsupportedError: it is of an architecture, or has modules, that are not trained.
        SettingsError: the run asks for lengths that its vectors have not.
    """
    import transformers

    assert config.embedding is not None
    modes = pooling_of(folder)
    found: Any = transformers.AutoConfig.from_pretrained(folder.transformer)
    dimensions = int(found.hidden_size) * len(modes)
    for length in config.embedding.matryoshka:
        if length >= dimensions:
            raise SettingsError(
                f"embedding.matryoshka has {length}, and the vectors of {config.model_name!r} have "
                f"{dimensions} dimensions; name shorter lengths"
            )
