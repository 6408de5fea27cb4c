"""transformers' continuous batching (`generate_batch`) in bfloat16.

Its defaults size the cache by the memory of a GPU; on a CPU they gave a sixth of the rate of these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.child import Embed
from benchmarks.generation_work import Work, folder_of

_NO_END = -1


def build_bf16(file: Path, threads: int) -> Embed:
    """The whole model in bfloat16."""
    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder_of(file)), dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    batching = ContinuousBatchingConfig(num_blocks=64, page_size=32, max_batch_tokens=256)

    def generate(texts: list[str]) -> None:
        work = Work.of(texts)
        greedy = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, max_new_tokens=work.new_tokens, eos_token_id=_NO_END, pad_token_id=0
        )
        answers = model.generate_batch(
            work.prompts,
            generation_config=greedy,
            continuous_batching_config=batching,
            progress_bar=False,
        )
        counts = {len(answer.generated_tokens) for answer in answers.values()}
        assert counts == {work.new_tokens}, f"answers of {counts} tokens"

    return generate
