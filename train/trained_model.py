"""The model of a run as its first step finds it: loaded, with adapters, its layers fused."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from ironcliw.file_digests import weights_digest
from train.checks import check_room, check_tokens
from train.embedding.load import load_encoder
from train.embedding.tokenizer import encoder_folder
from train.job import Job
from train.model.adapters import add_adapters
from train.model.fast_layers import replace_forwards
from train.model.fused import fuse
from train.model.load import choose_device, choose_dtype, load_base, model_folder

logger = logging.getLogger(__name__)

LOADED = "model %s in %s on %s, %d groups of layers fused, %d modules compiled"
"""Message that ends the loading of a model, by which this is timed."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model with what is known of it.

    Attributes:
        module: transformers' or peft's.
        digest: Of the weights that training starts from.
        dtype: Of the frozen weights and of the products.
        device: Where it is.
    """

    module: Any
    digest: str
    dtype: torch.dtype
    device: torch.device


def load_model(job: Job, workers: int, *, begun: bool) -> TrainedModel:
    """Read the model, put its adapters on, and let compiled operators compute what they know.

    Args:
        job: The run.
        workers: Over which its shards are spread.
        begun: Whether the run got further already.

    Raises:
        TrainingError: the model has no room, or its tokens are not the data's.
        ModelLoadError: its files are absent or damaged.
    """
    config = job.config
    device = choose_device()
    # a weight in bfloat16 would lose the small steps that it is trained by
    dtype = choose_dtype(config.precision, device) if config.use_lora else torch.float32
    if config.embedding is not None:
        return _load_encoder(job, workers, dtype, device, begun=begun)
    folder = model_folder(config.model_name, job.settings)
    check_room(config, folder, dtype, device, workers, begun=begun)
    # a worker that is started again on its machine reads nothing twice to know what it loads
    digest = weights_digest(folder, job.settings.state_dir / "models" / "index")
    base = load_base(config.model_name, folder, digest, dtype, device, config.quantization)
    known = base.module.get_input_embeddings().num_embeddings
    check_tokens(config.model_name, known, job.train, job.held_out)
    module = add_adapters(base, config) if config.use_lora else base.module
    fused = fuse(module) if config.use_lora else 0
    fast = replace_forwards(module, dtype, device)
    if config.gradient_checkpointing:
        base.module.activation_checkpointing_enable()
    logger.info(LOADED, config.model_name, dtype, device, fused, fast)
    return TrainedModel(module, base.digest, dtype, device)


def _load_encoder(
    job: Job, workers: int, dtype: torch.dtype, device: torch.device, *, begun: bool
) -> TrainedModel:
    config = job.config
    folder = encoder_folder(config.model_name, job.settings)
    check_room(config, folder.transformer, dtype, device, workers, begun=begun)
    check_tokens(config.model_name, folder.vocabulary, job.train, job.held_out)
    digest = weights_digest(folder.path)
    encoder = load_encoder(config, folder, digest, dtype, device)
    logger.info("encoder %s in %s on %s", config.model_name, dtype, device)
    return TrainedModel(encoder, digest, dtype, device)
