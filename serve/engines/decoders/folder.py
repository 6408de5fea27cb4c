"""A Hugging Face folder of a model that generates text, read without torch and transformers.

Covered: causal and sequence-to-sequence models, safetensors in one file or in shards, the
generation defaults and the chat template. Not covered: pickled weights, code that travels with a
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironcliw.errors import ModelLoadError
from ironcliw.json_files import optional_object, read_object
from ironcliw.model_text import chat_template, special_tokens, token_ids
from ironcliw.safetensors_files import StoredTensor, stored_tensors, weight_files

_NUMBERS = ("temperature", "top_p", "top_k", "repetition_penalty")
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx")
_RELATIVE_CONTEXT = 512
"""What T5 was trained on. Its positions are relative, so longer texts run; quality fades."""


@dataclass(frozen=True, slots=True)
class GenerationFolder:
    """What a folder says, checked.

    Attributes:
        path: The folder that was given.
        config: Its config.json.
        tensors: The weights by name.
        context: Most positions of one sequence.
        seq2seq: Whether an encoder reads a source text first (T5).
        start_token: Sequence to sequence: the decoder's first token; None for causal models.
        eos_tokens: Ids that end an answer; may be empty.
        pad_token: Id that fills up, where one is defined.
        defaults: What the model's makers suggest: `temperature`, `top_p`, `top_k`,
            `repetition_penalty` where given.
        do_sample: Whether they suggest to draw at all; None where they do not say.
        chat_template: Jinja source that turns messages into a prompt; None: not a chat model.
        special_tokens: Texts of `bos_token`, `eos_token`, ... where defined.
        tokenizer_file: Where tokenizer.json is, or would be.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    context: int
    seq2seq: bool
    start_token: int | None
    eos_tokens: tuple[int, ...]
    pad_token: int | None
    defaults: Mapping[str, float]
    do_sample: bool | None
    chat_template: str | None
    special_tokens: Mapping[str, str]
    tokenizer_file: Path

    @classmethod
    def read(cls, path: Path | str) -> GenerationFolder:
        """Read a folder as transformers' `save_pretrained` writes it.

        Raises:
            ModelLoadError: a file is absent, damaged, pickled, or asks for what is not supported;
                the message names the file and what to do.
        """
        path = Path(path)
        if not path.is_dir():
            raise ModelLoadError(f"{path} is not a folder; give a model's folder")
        config = read_object(path / "config.json")
        _refuse_own_code(path, config)
        generation = optional_object(path / "generation_config.json")
        tokenizer = optional_object(path / "tokenizer_config.json")
        seq2seq = bool(config.get("is_encoder_decoder", False))
        return cls(
            path=path,
            config=config,
            tensors=stored_tensors(weight_files(path)),
            context=_context(path, config),
            seq2seq=seq2seq,
            start_token=_start_token(path, config, generation) if seq2seq else None,
            eos_tokens=token_ids(path, "eos_token_id", generation, config),
            pad_token=next(iter(token_ids(path, "pad_token_id", generation, config)), None),
            defaults=_defaults(path, generation),
            do_sample=_flag(path, generation, "do_sample"),
            chat_template=chat_template(path, tokenizer),
            special_tokens=special_tokens(path, tokenizer),
            tokenizer_file=path / "tokenizer.json",
        )

    @classmethod
    def of_config(cls, path: Path, config: Mapping[str, Any]) -> GenerationFolder:
        """A causal model that no folder holds; only what config.json says is known of it.

        Raises:
            ModelLoadError: it does not say how many positions the model reads.
        """
        return cls(
            path=path,
            config=config,
            tensors={},
            context=_context(path, config),
            seq2seq=False,
            start_token=None,
            eos_tokens=(),
            pad_token=None,
            defaults={},
            do_sample=None,
            chat_template=None,
            special_tokens={},
            tokenizer_file=path,
        )

    @property
    def model_type(self) -> str:
        """The architecture's name in transformers, such as `llama`."""
        return str(self.config.get("model_type", ""))

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights in the files."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def _refuse_own_code(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("auto_map"):
        raise ModelLoadError(
            f"{folder / 'config.json'} asks to run code that comes with the model (auto_map), "
            "which is never done here; use a model of an architecture that transformers knows"
        )
    if config.get("quantization_config"):
        raise ModelLoadError(
            f"{folder / 'config.json'} has a quantization_config, and weights quantised by other "
            "programs are not read; take the unquantised model and load it with quantization= "
            "'8bit' or '4bit'"
        )


def _context(folder: Path, config: Mapping[str, Any]) -> int:
    for key in _CONTEXT_KEYS:
        value = config.get(key)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise ModelLoadError(
                f"{folder / 'config.json'}: {key} is {value!r} and must be a positive number of "
                "positions; download it again"
            )
        return value
    if "relative_attention_num_buckets" in config:
        return _RELATIVE_CONTEXT
    raise ModelLoadError(
        f"{folder / 'config.json'} does not say how many positions the model reads "
        f"({', '.join(_CONTEXT_KEYS)}); is it a text model?"
    )


def _start_token(folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any]) -> int:
    # transformers' generate: decoder_start_token_id, else bos_token_id
    for key in ("decoder_start_token_id", "bos_token_id"):
        if ids := token_ids(folder, key, generation, config):
            return ids[0]
    raise ModelLoadError(
        f"{folder / 'config.json'} has no decoder_start_token_id, which a sequence-to-sequence "
        "model begins with; add it (T5 uses its padding token, 0)"
    )


def _defaults(folder: Path, generation: Mapping[str, Any]) -> dict[str, float]:
    found = {key: generation[key] for key in _NUMBERS if generation.get(key) is not None}
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelLoadError(
                f"{folder / 'generation_config.json'}: {key} is {value!r} and must be a number; "
                "mend or delete the file"
            )
    return {key: float(value) for key, value in found.items()}


def _flag(folder: Path, generation: Mapping[str, Any], key: str) -> bool | None:
    value = generation.get(key)
    if value is None or isinstance(value, bool):
        return value
    raise ModelLoadError(
        f"{folder / 'generation_config.json'}: {key} is {value!r} and must be true or false; "
        "mend or delete the file"
    )
