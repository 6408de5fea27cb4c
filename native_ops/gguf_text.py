"""What a GGUF file says about texts: tokenizer, chat template, sizes; its weights are not touched.

Reading this takes a fraction of a second whatever the model's size, so the process that has the
requests needs no converted folder, whichever engine computes the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ironcliw.errors import ModelLoadError
from native_ops.gguf import GgufFile
from native_ops.gguf_architectures import model_config
from native_ops.gguf_tokenizer import (
    adds_bos,
    control_tokens,
    gguf_tokenizer,
    special_ids,
)

END_TEXTS = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<end_of_turn>", "</s>"}
)
"""Control tokens that end an answer whatever the file says (llama.cpp's end-of-generation set)."""


@dataclass(frozen=True, slots=True)
class GgufText:
    """The text half of a GGUF file, checked.

    Attributes:
        tokenizer: With llama.cpp's ids.
        config: The content of config.json, `vocab_size` and the special tokens' ids included.
        context: Most positions of one sequence.
        end_tokens: Ids that end an answer, the file's own EOS first; may be empty.
        special_ids: The ids that the file names, by role: `bos`, `eos`, `pad`, ...
        special_tokens: Texts of `bos_token`, `eos_token`, `unk_token`, `pad_token` where named.
        chat_template: Jinja source that turns messages into a prompt; None: not a chat model.
        adds_bos: Whether a text starts with the BOS token unless the caller says otherwise.
        adds_eos: Whether it ends with EOS.
    """

    tokenizer: Tokenizer
    config: dict[str, Any]
    context: int
    end_tokens: tuple[int, ...]
    special_ids: dict[str, int]
    special_tokens: dict[str, str]
    chat_template: str | None
    adds_bos: bool
    adds_eos: bool

    @classmethod
    def read(cls, path: Path) -> GgufText:
        """Of a file on disk.

        Raises:
            ModelLoadError: the file is absent, damaged or of a kind that is not supported.
        """
        return cls.of(GgufFile.read(path))

    @classmethod
    def of(cls, file: GgufFile) -> GgufText:
        """Of a file whose metadata is read.

        Raises:
            ModelLoadError: the metadata lacks a part, contradicts itself, or names an architecture
                or a tokenizer that is not supported.
        """
        tokenizer = gguf_tokenizer(file)
        ids = special_ids(file)
        named = {f"{role}_token_id": ids[role] for role in ("bos", "eos", "pad") if role in ids}
        config = model_config(file) | named
        if config["vocab_size"] < tokenizer.get_vocab_size():
            raise ModelLoadError(
                f"{file.path} has {config['vocab_size']} embeddings for "
                f"{tokenizer.get_vocab_size()} tokens; download it again"
            )
        tokens = file.texts("tokenizer.ggml.tokens")
        has_template = "tokenizer.chat_template" in file.metadata
        return cls(
            tokenizer=tokenizer,
            config=config,
            context=file.integer(f"{file.text('general.architecture')}.context_length"),
            end_tokens=tuple(_end_ids(file, ids)),
            special_ids=ids,
            special_tokens={
                f"{role}_token": tokens[ids[role]]
                for role in ("bos", "eos", "unk", "pad")
                if role in ids
            },
            chat_template=file.text("tokenizer.chat_template") if has_template else None,
            adds_bos=adds_bos(file),
            adds_eos=file.flag("tokenizer.ggml.add_eos_token", False),
        )

    def tokenizer_config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.adds_bos,
            "add_eos_token": self.adds_eos,
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.context,
            **self.special_tokens,
        }
        template = self.chat_template
        return config if template is None else config | {"chat_template": template}

    def generation_config(self) -> dict[str, Any]:
        """The content of generation_config.json."""
        named = {name: value for name, value in self.config.items() if name.endswith("_token_id")}
        return named | ({"eos_token_id": list(self.end_tokens)} if self.end_tokens else {})


def _end_ids(file: GgufFile, ids: dict[str, int]) -> list[int]:
    """Every token that ends an answer, the file's own EOS first."""
    named = [ids[role] for role in ("eos", "eot", "eom") if role in ids]
    known = [number for text, number in control_tokens(file).items() if text in END_TEXTS]
    return list(dict.fromkeys(named + known))
