"""transformers' `generate` on a batch, greedy, as its documentation shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.child import Embed
from benchmarks.generation_work import Work, folder_of


def build_fp32(file: Path, threads: int) -> Embed:
    """The whole model in float32."""
    return _build(file, threads, torch.float32)


def build_bf16(file: Path, threads: int) -> Embed:
    """The whole model in bfloat16."""
    return _build(file, threads, torch.bfloat16)


def _build(file: Path, threads: int, dtype: torch.dtype) -> Embed:
    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder_of(file)), dtype=dtype)

    def generate(texts: list[str]) -> None:
        work = Work.of(texts)
        ids = torch.tensor(work.prompts)
        answer = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=work.new_tokens,
            min_new_tokens=work.new_tokens,
            pad_token_id=0,
        )
        assert answer.shape[1] == ids.shape[1] + work.new_tokens

    return generate
