"""The text side of a generating model: its tokenizer and the facts that requests need.

Lives in the process that has the request. Never imports torch or transformers.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ironcliw.catalog import ModelCard
from ironcliw.chat_template import MOST_CHARACTERS, ChatMessages, ChatTemplate
from ironcliw.errors import ModelLoadError, RequestError, RequestTooLargeError
from ironcliw.model_text import load_tokenizer
from ironcliw.sources import locate
from serve.engines.protocol import Tokens

if TYPE_CHECKING:
    from serve.engines.decoders.folder import GenerationFolder

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (1e-9, 1.0),
    "top_k": (0.0, 2.0**31 - 1),
    "repetition_penalty": (1e-9, 100.0),
}
_FAKE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TextSide:
    """Texts to tokens and back for one model. Threads may share one.

    Args:
        model: Model id, for messages.
        tokenizer: A `tokenizers.Tokenizer`; its padding and truncation are turned off.
        context: Most tokens of prompt and answer together (of each, for sequence to sequence).
        vocabulary: Token ids go from 0 to one less.
        end_tokens: Ids that end an answer.
        seq2seq: The prompt is a source text that is read by an encoder.
        defaults: What holds where a request does not say: `temperature`, `top_p`, `top_k`,
            `repetition_penalty`, as far as the model has its own.
        template: Source of its chat template.
        special_tokens: `bos_token` and the like, for the template.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        context: int,
        vocabulary: int,
        end_tokens: Sequence[int],
        *,
        seq2seq: bool = False,
        defaults: Mapping[str, float] | None = None,
        template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.context = context
        self.vocabulary = vocabulary
        self.end_tokens = frozenset(end_tokens)
        self.seq2seq = seq2seq
        self.defaults = dict(defaults or {})
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._template_source = template
        self._special_tokens = special_tokens or {}

    def named(self, model: str) -> TextSide:
        """The same tokenizer and facts for a model with another id."""
        other = copy.copy(self)
        other.model = model
        return other

    def encode(self, text: str, *, special: bool = True) -> Tokens:
        """int32 [P].

        Args:
            text: Special tokens written out in it become those tokens.
            special: Add what the tokenizer adds around a text; not for a rendered chat, which has
                them already.
        """
        _check_length(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        return np.array(encoding.ids, np.int32)

    def check(self, tokens: Sequence[int]) -> Tokens:
        """Token ids given by the client, int32 [P].

        Raises:
            RequestError: one is not an id of this model.
        """
        for index, token in enumerate(tokens):
            if not 0 <= token < self.vocabulary:
                raise RequestError(
                    f"prompt token {index} is {token!r:.40}; the ids of {self.model} are the "
                    f"integers from 0 to {self.vocabulary - 1}",
                    param="prompt",
                )
        return np.array(tokens, np.int32)

    def following(self, prompt: str, texts: Sequence[str], *, special: bool) -> tuple[int, ...]:
        """The token that each text is when it follows the prompt.

        Raises:
            RequestError: one is not exactly one token there.
        """
        before = self.encode(prompt, special=special).tolist()
        joined = self._tokenizer.encode_batch(
            [prompt + text for text in texts], add_special_tokens=special
        )
        found = []
        for text, encoding in zip(texts, joined, strict=True):
            if len(encoding.ids) != len(before) + 1 or encoding.ids[:-1] != before:
                raise RequestError(
                    f"{text!r:.80} after the prompt is not one token of {self.model}; choose a "
                    "shorter text, such as one letter after a space"
                )
            found.append(encoding.ids[-1])
        return tuple(found)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, special tokens left out, replacement characters for broken bytes."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def render(self, messages: ChatMessages) -> str:
        """The text of a conversation that the assistant shall answer; encode with `special=False`.

        Raises:
            RequestError: the model has no chat template, or its template refuses the messages.
            ModelLoadError: the template is damaged.
        """
        if self._template is None:
            raise RequestError(
                f"model {self.model!r} has no chat template: it only goes on with a text; use "
                "/v1/completions, or choose a model that was trained for conversation",
                param="model",
                code="no_chat_template",
            )
        return self._template.render(messages)

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for: its bytes are not always whole characters."""
        written: str | None = self._tokenizer.id_to_token(token)
        if written is None:  # an id beyond the tokenizer's, of a padded embedding matrix
            return b""
        if token not in self._added and self._byte_level:
            return b"".join(self._letters.get(letter, letter.encode()) for letter in written)
        if found := _BYTE.fullmatch(written):
            return bytes([int(found[1], 16)])
        # U+2581 is SentencePiece's space
        return (written if token in self._added else written.replace("\u2581", " ")).encode()

    @cached_property
    def _template(self) -> ChatTemplate | None:
        if self._template_source is None:
            return None
        return ChatTemplate(self._template_source, self._special_tokens, self.model)

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self._tokenizer.get_added_tokens_decoder())

    @cached_property
    def _byte_level(self) -> bool:
        return "ByteLevel" in str(self._tokenizer.decoder)

    @cached_property
    def _letters(self) -> dict[str, bytes]:
        """GPT-2's letters for bytes: printable ones stand for themselves."""
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        letters = {chr(byte): bytes([byte]) for byte in printable}
        return letters | {chr(256 + number): bytes([byte]) for number, byte in enumerate(others)}


def load_text_side(card: ModelCard, cache_dir: Path) -> TextSide:
    """Read a model's tokenizer and facts; blocking, for a fraction of a second.

    Raises:
        ModelLoadError: the files are absent, damaged or of a kind that is not supported.
    """
    if card.source and card.source.startswith("fake:"):
        return _fake(card)
    from serve.engines.decoders.folder import GenerationFolder

    path = locate(card, cache_dir)
    if path.is_file():
        return _of_gguf(card, path)
    folder = GenerationFolder.read(path)
    tokenizer = load_tokenizer(folder.tokenizer_file)
    return TextSide(
        card.id,
        tokenizer,
        folder.context,
        int(folder.config.get("vocab_size") or tokenizer.get_vocab_size()),
        folder.eos_tokens,
        seq2seq=folder.seq2seq,
        defaults=_defaults(folder),
        template=folder.chat_template,
        special_tokens=folder.special_tokens,
    )


def _fake(card: ModelCard) -> TextSide:
    from serve.engines.decoders.fake import END, FakeDecoder, fake_tokenizer

    assert card.source is not None
    decoder = FakeDecoder(card.source)
    return TextSide(
        card.id,
        fake_tokenizer(),
        decoder.context,
        decoder.vocabulary,
        (END,),
        seq2seq=decoder.start_token is not None,
        template=_FAKE_TEMPLATE,
    )


def _of_gguf(card: ModelCard, path: Path) -> TextSide:
    from native_ops.gguf_text import GgufText

    found = GgufText.read(path)
    return TextSide(
        card.id,
        found.tokenizer,
        found.context,
        int(found.config["vocab_size"]),
        found.end_tokens,
        template=found.chat_template,
        special_tokens=found.special_tokens,
    )


def _defaults(folder: GenerationFolder) -> dict[str, float]:
    """The model's own sampling; what is for drawing counts where it says that it is to be drawn
    from (`do_sample`), as in transformers."""
    found = {
        name: value
        for name, value in folder.defaults.items()
        if folder.do_sample or name == "repetition_penalty"
    }
    for name, value in found.items():
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise ModelLoadError(
                f"{folder.path / 'generation_config.json'}: {name} is {value} and must be from "
                f"{low:g} to {high:g}; mend or delete the file"
            )
    return found


def _check_length(text: str) -> None:
    """Longer ones would hold a tokenising thread for seconds, to be refused after all."""
    if len(text) > MOST_CHARACTERS:
        raise RequestTooLargeError(
            f"the prompt has {len(text)} characters; at most {MOST_CHARACTERS} are allowed",
            param="prompt",
        )
