"""LoRA adapters of small encoders, as peft writes them, and what peft makes of texts under them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

from serve.engines.protocol import Vectors


def save_adapter(base: Path, to: Path, seed: int, **changes: Any) -> Path:
    """A random adapter, as peft writes it."""
    torch.manual_seed(seed)
    given = {"r": 4 + 4 * seed, "lora_alpha": 16, "target_modules": "all-linear"} | changes
    loader: Any = transformers.AutoModel
    model = loader.from_pretrained(base)
    model.pooler = None
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name
        warnings.simplefilter("ignore", FutureWarning)
        lora: Any = peft.LoraConfig(task_type="FEATURE_EXTRACTION", **given)
        wrapped: Any = peft.get_peft_model(model, lora)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(str(to))
    return to


def merged(base: Path, adapter: Path, texts: list[Any]) -> Vectors:
    """What peft says, one text at a time: mean pooled, of length 1."""
    loader: Any = transformers.AutoModel
    model = loader.from_pretrained(base)
    model.pooler = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        under: Any = peft.PeftModel.from_pretrained(model, str(adapter))
    whole = under.merge_and_unload().eval()
    with torch.inference_mode():
        rows = [
            whole(input_ids=torch.from_numpy(text.astype(np.int64))[None]).last_hidden_state[0]
            for text in texts
        ]
    pooled = torch.stack([row.mean(0) for row in rows])
    return torch.nn.functional.normalize(pooled, dim=1).numpy()
