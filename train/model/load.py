"""The model that is trained: its files, digest and module, in the precision of the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ironcliw.errors import ModelLoadError, UnsupportedError
from ironcliw.settings import Settings
from native_ops.gguf_conversion import converted_folder
from train.model import packed_attention
from train.model.packing import pack_layers
from train.quantization import Quantization
from train.tokenizer import model_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A causal language model before adapters.

    Attributes:
        module: transformers' model with its head.
        folder: Where its files are; of a GGUF file, the converted ones.
        digest: sha256 of its weights and configuration.
        dtype: Of its weights.
    """

    module: Any
    folder: Path
    digest: str
    dtype: torch.dtype


def model_folder(name: str, settings: Settings) -> Path:
    """Folder with the model's config.json and safetensors; a GGUF file is converted once.

    Raises:
        ModelNotFoundError: no such model.
        ModelLoadError: its files are absent or damaged.
    """
    path = model_path(name, settings)
    if path.is_file():
        return converted_folder(path, settings.state_dir / "models")
    if not (path / "config.json").is_file():
        raise ModelLoadError(
            f"model {name!r}: {path} has no config.json; name a folder in Hugging Face's format, "
            "or a GGUF file"
        )
    return path


def load_base(
    name: str,
    folder: Path,
    digest: str,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization | None = None,
) -> BaseModel:
    """Read a model for training; its attention is over packed rows.

    Args:
        name: For messages.
        folder: Of `model_folder`.
        digest: Of `weights_digest`.
        dtype: Of the weights in memory.
        device: Where to.
        quantization: How its linear layers are packed. The weights are then read in the precision
            of their files, and packed layer by layer: a whole model is never held in float32.

    Raises:
        UnsupportedError: it is no causal language model, or its attention cannot be replaced.
        ModelLoadError: its files are damaged.
    """
    import transformers

    attention = packed_attention.register()
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if type(config) not in transformers.AutoModelForCausalLM._model_mapping:
            raise UnsupportedError(
                f"model {name!r} is a {config.model_type}; supervised fine-tuning takes causal "
                "language models: give one, such as SmolLM2-135M-Instruct"
            )
        loader: Any = transformers.AutoModelForCausalLM
        module = loader.from_pretrained(
            folder,
            config=config,
            dtype="auto" if quantization else dtype,
            attn_implementation=attention,
        )
    except ValueError as error:
        if "attn_implementation" not in str(error) and "attention" not in str(error).lower():
            raise damaged(name, folder, error) from error
        raise UnsupportedError(
            f"model {name!r} ({folder}): its attention in transformers cannot be replaced by one "
            f"over packed rows ({error}); train another architecture"
        ) from error
    except (OSError, RuntimeError, KeyError) as error:
        raise damaged(name, folder, error) from error
    if quantization is not None:
        pack_layers(module, quantization, dtype, device)
    module.to(device)
    # what the model was published with would drop at random what the run did not ask to be dropped
    drop_nothing(module)
    module.train()
    return BaseModel(module, folder, digest, dtype)


def drop_nothing(module: torch.nn.Module) -> None:
    """Set every chance of dropping to 0, whatever the model was published with."""
    for each in module.modules():
        if isinstance(each, torch.nn.Dropout):
            each.p = 0.0
        if isinstance(getattr(each, "attention_dropout", None), float):
            setattr(each, "attention_dropout", 0.0)  # noqa: B010  # a name that Module does not know


def damaged(name: str, folder: Path, error: Exception) -> ModelLoadError:
    """The error for files that transformers cannot read."""
    return ModelLoadError(
        f"model {name!r}: {folder} cannot be loaded ({error}); see that its files are whole"
    )


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype of the frozen weights and of the products.

    Args:
        wanted: `auto`, `bf16` or `fp32`; auto is bf16 where the processor multiplies it faster.
        device: Where it is computed.
    """
    if wanted == "fp32":
        return torch.float32
    if wanted == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and _has_bf16_products():
        return torch.bfloat16
    return torch.float32


def _has_bf16_products() -> bool:
    """AVX-512 BF16 or AMX; without them bfloat16 is emulated, and slower than float32."""
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def choose_device() -> torch.device:
    """CUDA where there is a GPU, else the processor. Apple's GPU is used when it was measured."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
