"""Random adapters of small models, as peft writes them."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import torch

from serve.generation.protocol import Logits
from tests.unit.serve.decoders.small_models import Case


def peft_model(case: Case, *, seed: int = 0, **options: Any) -> Any:
    """The case's model under a random adapter whose effect shows."""
    given: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    if case.folder.model_type == "gpt2":
        given["fan_in_fan_out"] = True
    config = peft.LoraConfig(task_type="CAUSAL_LM", **{**given, **options})
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.get_peft_model(copy.deepcopy(case.model), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name and parameter.ndim == 2:
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(values * parameter.shape[1] ** -0.5 * 0.7)
    return model.eval()


def save_adapter(model: Any, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether the vocabulary has grown: asked of a hub
        model.save_pretrained(folder)
    return folder


def logits_of(model: Any, tokens: Any) -> Logits:
    """[N, V] of a whole sequence."""
    with torch.inference_mode():
        found: Logits = model(torch.from_numpy(tokens).long()[None]).logits[0].float().numpy()
    return found
