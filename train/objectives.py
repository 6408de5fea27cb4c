"""The objective that a configuration asks for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from native_ops import binary
from train.config import TrainingConfig
from train.data.tokenized import TokenizedData
from train.fingerprint import device_name, loss_head_tiles, processor_here
from train.job import Job
from train.loop.compute import Computer
from train.loop.objective import Objective, TokenLoss
from train.loop.reduce import Group
from train.loop.run import MachineEndsError
from train.model.load import choose_device
from train.preference.objective import PairLoss
from train.preference.options import WITHOUT_REFERENCE, PreferenceOptions
from train.preference.reference import KeptReference, ModelReference, Reference, precompute
from train.preference.reference_cache import ReferenceCache
from train.run_files import HELD_OUT_REFERENCE, REFERENCE, RunFiles


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker computes, and of what.

    Attributes:
        files: Of the run.
        computer: Of the model before its first step: a reference is computed by it.
        group: The workers.
        notice: Whether this worker's machine is about to end.
        model_digest: Of the weights that training starts from.
        dtype: Of the computation.
        cache: Makes the folder of a kept reference.
        inexact: What kept references were computed with otherwise, in words; objectives that are
            made add theirs.
    """

    files: RunFiles
    computer: Computer
    group: Group
    notice: Callable[[], bool]
    model_digest: str
    dtype: torch.dtype
    cache: Callable[..., ReferenceCache] = ReferenceCache
    inexact: list[str] = field(default_factory=list)


def make_objective(job: Job, place: Place) -> Objective:
    """What a run minimises over the rows that it trains on.

    Raises:
        MachineEndsError: a notice came while the reference was computed.
        CheckpointError: the reference cannot be kept, or is that of another model or other data.
        PeerLostError: another worker is gone.
    """
    if job.config.preference is None:
        return TokenLoss(place.computer, job.train)
    options = job.config.preference
    uri = options.reference_cache or place.files.path(REFERENCE)
    return _pair_loss(job, place, options, job.train, uri)


def held_out_objective(job: Job, place: Place) -> PairLoss:
    """The same over the pairs that are held out.

    Raises:
        MachineEndsError: as `make_objective`.
        CheckpointError: as `make_objective`.
        PeerLostError: as `make_objective`.
    """
    options = job.config.preference
    assert options is not None and job.held_out is not None
    uri = place.files.path(HELD_OUT_REFERENCE)
    most = job.config.evaluation.max_rows
    return _pair_loss(job, place, options, job.held_out, uri, most)


def _pair_loss(
    job: Job,
    place: Place,
    options: PreferenceOptions,
    data: TokenizedData,
    uri: str,
    rows: int | None = None,
) -> PairLoss:
    config = job.config
    reference: Reference | None = None
    if options.loss not in WITHOUT_REFERENCE:
        reference = ModelReference(place.computer)
        if keeps_reference(options, use_lora=config.use_lora, epochs=config.num_epochs):
            reference = _kept(config, place, data, uri, rows)
    return PairLoss(place.computer, data, options, reference)


def keeps_reference(options: PreferenceOptions, *, use_lora: bool, epochs: int) -> bool:
    """Whether log-probabilities of the reference are computed once, before the first step.

    Args:
        options: Of the loss.
        use_lora: Otherwise the model does not hold its reference.
        epochs: Where there are several, each pair's reference is needed as often.
    """
    if options.reference == "auto":
        return not use_lora or epochs > 1 or bool(options.reference_cache)
    return options.reference == "precomputed"


def _kept(
    config: TrainingConfig, place: Place, data: TokenizedData, uri: str, rows: int | None
) -> KeptReference:
    most = config.micro_batch_tokens
    key = reference_key(data, place.model_digest, place.dtype, config)
    cache = place.cache(uri, key, allow_inexact=config.allow_inexact)
    place.inexact.extend(f"reference's {words}" for words in cache.inexact)
    # rows lie in its parts as they were computed together
    most = int(cache.key["micro_batch_tokens"])
    values = precompute(place.computer, data, cache, place.group, most, place.notice, rows)
    if values is None:
        raise MachineEndsError("a machine of this run is taken back; its reference goes on later")
    return KeptReference(values, place.computer.device)


def reference_key(
    data: TokenizedData,
    model_digest: str,
    dtype: torch.dtype,
    config: TrainingConfig,
    device: torch.device | None = None,
) -> dict[str, str | int]:
    """What log-probabilities of a reference depend on; tokenizer and template are in the data.

    A cache may be shared by machines: it must not mix what they round differently.

    Args:
        data: Preferences.
        model_digest: Of the reference's weights.
        dtype: Of the computation.
        config: Of which count how many tokens are computed together, how the weights are held, and
            whether the model is in pieces: all of them change the rounding.
        device: Where it is computed; None: where models are loaded here.
    """
    return {
        "model": model_digest,
        "data": data.digest,
        "dtype": str(dtype).removeprefix("torch."),
        "micro_batch_tokens": config.micro_batch_tokens,
        "quantization": config.quantization or "none",
        "sharding": config.sharding.mode,
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
        "torch_level": torch.backends.cpu.get_cpu_capability(),
        "kernels": binary.state().level or "none",
        "kernels_interface": binary.INTERFACE,
        "loss_head": loss_head_tiles(),
        "device": device_name(device or choose_device()),
        "processor": processor_here(),
        "threads": torch.get_num_threads(),
    }
