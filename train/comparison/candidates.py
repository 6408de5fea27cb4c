"""One base in memory, and its adapters, of which one at a time or none is in force."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ironcliw.errors import ModelLoadError, TrainingError
from ironcliw.file_digests import weights_digest
from ironcliw.settings import Settings
from train.comparison.config import BASE, ComparisonConfig
from train.export.source import Source
from train.loop.compute import Computer
from train.model.load import choose_device, choose_dtype, load_base, model_folder
from train.model.memory import available_bytes
from train.model.sizes import read_sizes

_HEADROOM = 1.25
"""Weights and the pieces that a pass without gradients needs besides."""


class Candidates:
    """What is compared.

    Args:
        model: transformers' or peft's, in evaluation mode.
        device: Where it is.

    Attributes:
        model: As given.
        computer: Of it.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model = model
        self.computer = Computer(model, device)

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[None]:
        """Compute with this adapter, or with none (`base`), while this is open."""
        if name != BASE:
            self.model.set_adapter(name)
            yield
        elif hasattr(self.model, "disable_adapter"):
            with self.model.disable_adapter():
                yield
        else:
            yield


def load_candidates(
    config: ComparisonConfig, adapters: Mapping[str, Source], settings: Settings
) -> Candidates:
    """Load a base and its adapters.

    Args:
        config: Of which model and precision count here.
        adapters: Each belongs to the base.
        settings: Of the head.

    Raises:
        TrainingError: the base has no room.
        ModelLoadError: files are absent or damaged.
        UnsupportedError: it is no causal language model.
    """
    device = choose_device()
    dtype = choose_dtype(config.precision, device)
    folder = model_folder(config.model_name, settings)
    sizes = read_sizes(folder)
    free = available_bytes(device)
    if sizes is not None and config.quantization is None:
        need = sizes.weights * dtype.itemsize * _HEADROOM
        if need > free:
            raise TrainingError(
                f"model {config.model_name!r} in {str(dtype).removeprefix('torch.')} needs about "
                f"{need / 1e9:.2f} GB and {free / 1e9:.2f} GB are available; set quantization to "
                "nf4, or evaluate on a larger machine",
                code="out_of_memory",
            )
    digest = weights_digest(folder)
    base = load_base(config.model_name, folder, digest, dtype, device, config.quantization)
    model: Any = base.module
    for name, source in adapters.items():
        model = _with_adapter(model, name, source, device)
    model.requires_grad_(False)
    model.eval()
    return Candidates(model, device)


def _with_adapter(model: Any, name: str, source: Source, device: torch.device) -> Any:
    import peft

    folder = str(source.adapter)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name
        warnings.simplefilter("ignore", FutureWarning)
        try:
            if isinstance(model, peft.PeftModel):
                model.load_adapter(folder, name, torch_device=str(device))
                return model
            return peft.PeftModel.from_pretrained(
                model, folder, adapter_name=name, torch_device=str(device)
            )
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise ModelLoadError(
                f"adapter {name} ({source.name}) cannot be loaded ({error}); see that its files "
                "are whole"
            ) from error
