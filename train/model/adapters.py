"""LoRA adapters on a model: peft's layers, initialised by the run's seed alone."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from ironcliw.errors import SettingsError
from train.config import TrainingConfig
from train.model.load import BaseModel
from train.randomness import seeded

ADAPTER = "default"


def add_adapters(base: BaseModel, config: TrainingConfig, task: str = "CAUSAL_LM") -> Any:
    """The model with adapters, all other weights frozen.

    The adapters are float32 whatever the model's dtype, as peft has it.

    Args:
        base: Changed in place.
        config: Rank, alpha, dropout, targets and kind.
        task: As peft names it.

    Returns:
        A `peft.PeftModel`.

    Raises:
        SettingsError: no layer has one of the names in `lora_targets`, or peft refuses them.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    targets = config.lora_targets
    lora = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # a float is right, too
        lora_dropout=config.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        # GPT-2's layers hold their weights transposed
        fan_in_fan_out=any(isinstance(each, Conv1D) for each in base.module.modules()),
        task_type=task,
    )
    with seeded(config.seed, 0, 0, 0, "adapters"), warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name
        warnings.simplefilter("ignore", FutureWarning)
        try:
            model: Any = peft.get_peft_model(base.module, lora)
        except ValueError as error:
            linear = sorted(
                {
                    name.rpartition(".")[2]
                    for name, module in base.module.named_modules()
                    if isinstance(module, torch.nn.Linear)
                }
            )
            raise SettingsError(
                f"lora_targets is {config.lora_targets!r}: {error}; this model's linear layers "
                f"are {', '.join(linear)}"
            ) from error
    model.train()
    return model


def causal_of(model: Any) -> Any:
    """transformers' model with its head, below peft's wrapper or bare."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trainable(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """Name and parameter of all that is trained, by name."""
    return sorted(
        ((name, each) for name, each in model.named_parameters() if each.requires_grad),
        key=lambda pair: pair[0],
    )
