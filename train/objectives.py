"""The objective that a configuration asks for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import torch

from native_ops import binary
from train.data.tokenized import TokenizedData
from train.job import Job
from train.loop.compute import Computer
from train.loop.objective import Objective, TokenLoss
from train.loop.reduce import Group
from train.loop.run import MachineEndsError
from train.preference.objective import PairLoss
from train.preference.options import WITHOUT_REFERENCE, PreferenceOptions
from train.preference.reference import KeptReference, ModelReference, Reference, precompute
from train.preference.reference_cache import ReferenceCache
from train.run_files import REFERENCE, RunFiles


def make_objective(
    job: Job,
    files: RunFiles,
    computer: Computer,
    group: Group,
    notice: Callable[[], bool],
    *,
    model_digest: str,
    dtype: torch.dtype,
) -> Objective:
    """What a run minimises over the rows that it trains on.

    Args:
        job: The run.
        files: Of it.
        computer: Of the model before its first step: a reference is computed by it.
        group: The workers.
        notice: Whether this worker's machine is about to end.
        model_digest: Of the weights that training starts from.
        dtype: Of the computation.

    Raises:
        MachineEndsError: a notice came while the reference was computed.
        CheckpointError: the reference cannot be kept, or is that of another model or other data.
        PeerLostError: another worker is gone.
    """
    options = job.config.preference
    if options is None:
        return TokenLoss(computer, job.train)
    reference: Reference | None = None
    if options.loss not in WITHOUT_REFERENCE:
        if keeps_reference(options, use_lora=job.config.use_lora, epochs=job.config.num_epochs):
            reference = _kept(job, files, computer, group, notice, model_digest, dtype)
        else:
            reference = ModelReference(computer)
    return PairLoss(computer, job.train, options, reference)


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
    job: Job,
    files: RunFiles,
    computer: Computer,
    group: Group,
    notice: Callable[[], bool],
    model_digest: str,
    dtype: torch.dtype,
) -> Reference:
    options = job.config.preference
    assert options is not None
    uri = options.reference_cache or files.path(REFERENCE)
    most = job.config.micro_batch_tokens
    key = reference_key(job.train, model_digest, dtype, most, job.config.quantization)
    values = precompute(computer, job.train, ReferenceCache(uri, key), group, most, notice)
    if values is None:
        raise MachineEndsError("a machine of this run is taken back; its reference goes on later")
    return KeptReference(values, computer.device)


def reference_key(
    data: TokenizedData,
    model_digest: str,
    dtype: torch.dtype,
    micro_batch_tokens: int,
    quantization: str | None,
) -> dict[str, str | int]:
    """What log-probabilities of a reference depend on; tokenizer and template are in the data.

    Args:
        data: Preferences.
        model_digest: Of the reference's weights.
        dtype: Of the computation.
        micro_batch_tokens: Most tokens that are computed together: it changes the rounding.
        quantization: Of the weights.
    """
    return {
        "model": model_digest,
        "data": data.digest,
        "dtype": str(dtype).removeprefix("torch."),
        "micro_batch_tokens": micro_batch_tokens,
        "quantization": quantization or "none",
        "torch": importlib.metadata.version("torch"),
        "torch_level": torch.backends.cpu.get_cpu_capability(),
        "kernels": binary.state().level or "none",
    }
