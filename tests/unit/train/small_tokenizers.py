"""Tokenizers of a few hundred tokens, with the chat templates that models have."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from train.tokenizer import TrainingTokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen3's: an answer loses its thinking once more follows."""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]


def byte_tokenizer(
    *, merges: tuple[tuple[str, str], ...] = (), begin: bool = False, prepend: bool = False
) -> Any:
    """A byte is a token, but for merges and special tokens.

    Args:
        merges: Pairs of letters that are one token where they meet.
        begin: Put `<s>` before a text.
        prepend: Put a space before a text and after each special token.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *letters, *("".join(pair) for pair in merges)]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    if prepend:
        tokenizer.normalizer = normalizers.Prepend(" ")
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
        )
    return tokenizer


def small(template: str | None = CHATML, **changes: Any) -> TrainingTokenizer:
    """A tokenizer whose answers end with `<|im_end|>` and whose texts end with `<|endoftext|>`."""
    ends = changes.pop("end_tokens", (0, 2))
    context = changes.pop("context", None)
    return TrainingTokenizer(
        "small", byte_tokenizer(**changes), end_tokens=ends, template=template, context=context
    )
