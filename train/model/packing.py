"""The frozen linear layers of a model in four bits, one after the other."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ironcliw.errors import SettingsError
from train.model.nf4 import Nf4Linear
from train.quantization import Quantization


def pack_layers(
    model: Any, quantization: Quantization, dtype: torch.dtype, device: torch.device
) -> int:
    """Replace the linear layers of a model but its head, which is too fine for 4 bits.

    Args:
        model: transformers', in whatever precision its files have; changed in place.
        quantization: `nf4` is computed by torch, the same on every device; `nf4_bitsandbytes` by
            that library's kernels, on CUDA alone.
        dtype: Of all other weights, and of the products.
        device: Where a layer is packed; as many of them as are packed are there then.

    Returns:
        How many were replaced.

    Raises:
        SettingsError: `nf4_bitsandbytes` without CUDA, or without bitsandbytes.
    """
    library = None
    if quantization == "nf4_bitsandbytes":
        library = _bitsandbytes(device)
        # peft asks the model, not the layers
        model.is_loaded_in_4bit = True
    spared = model.get_output_embeddings()
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not torch.nn.Linear or child is spared:
                continue
            child.to(device)
            packed = Nf4Linear(child) if library is None else _of_library(library, child, dtype)
            setattr(parent, name, packed)
            count += 1
    _cast(model, dtype)
    return count


def _cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """What is not packed; buffers are in the precision that they need."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _of_library(library: Any, layer: torch.nn.Linear, dtype: torch.dtype) -> torch.nn.Module:
    made: torch.nn.Module = library.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
        device="meta",
    )
    # packed when it arrives on the GPU
    weight = library.nn.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
    made.weight = weight.to(layer.weight.device)
    made.bias = layer.bias
    return made


def _bitsandbytes(device: torch.device) -> Any:
    if device.type != "cuda":
        raise SettingsError(
            f"quantization is 'nf4_bitsandbytes', which needs CUDA, and this run is on "
            f"{device.type}; choose 'nf4'"
        )
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise SettingsError(
            "quantization is 'nf4_bitsandbytes' and bitsandbytes is not installed: pip install "
            "'ironcliw[cuda]', or choose 'nf4'"
        ) from error
