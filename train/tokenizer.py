"""A model's tokenizer and chat template, as training needs them and as serving has them.

The same files are read by the same code as in serving, so a model is trained on the tokens that it
is served with. torch and transformers are imported by `TrainingTokenizer.transformers` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ironcliw.catalog import Catalog
from ironcliw.chat_template import ChatMessages, ChatTemplate
from ironcliw.errors import ModelLoadError, SettingsError
from ironcliw.json_files import optional_object, read_object
from ironcliw.model_text import chat_template, load_tokenizer, special_tokens, token_ids
from ironcliw.settings import Settings
from ironcliw.sources import locate

TEMPLATE_TIME = datetime(2024, 7, 26)
"""What templates are told that the day is (Llama 3's own default): a run that is resumed tomorrow
must see the tokens of today."""

_DECODED_TOGETHER = 64

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx")


class TrainingTokenizer:
    """Texts to tokens for training. Can be pickled.

    Args:
        model: Model id or path, for messages.
        tokenizer: A `tokenizers.Tokenizer`; its padding and truncation are turned off.
        end_tokens: Ids that end an answer, the end of a text first; may be empty.
        template: Jinja source of the chat template; None: the model has none.
        special_tokens: Texts of `bos_token` and the like, for the template.
        context: Most tokens that the model can read; None: not known.

    Attributes:
        end_tokens: As given.
        context: As given.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        *,
        end_tokens: Sequence[int] = (),
        template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
        context: int | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.model = model
        self.end_tokens = tuple(end_tokens)
        self.context = context
        self._tokenizer = tokenizer
        self._template_source = template
        self._special_tokens = dict(special_tokens or {})

    @classmethod
    def load(
        cls, model: str, settings: Settings, *, template: str | None = None
    ) -> TrainingTokenizer:
        """Of a model.

        Args:
            model: An id of the catalogue, a folder with tokenizer.json, or a GGUF file.
            settings: Of which the catalogue and the state directory count here.
            template: In place of the model's own chat template: a file NAME.jinja, or Jinja.

        Raises:
            ModelNotFoundError: no such model.
            ModelLoadError: its files are absent or damaged, or the template is.
            SettingsError: the template's file cannot be read.
        """
        path = model_path(model, settings)
        given = None if template is None else _template_source(template)
        found = cls._of_gguf(model, path, given) if path.is_file() else cls._of(model, path, given)
        if found.has_template:
            _ = found._template  # a damaged one is told now, not at the first row
        return found

    @classmethod
    def _of_gguf(cls, model: str, path: Path, template: str | None) -> TrainingTokenizer:
        from native_ops.gguf_text import GgufText

        text = GgufText.read(path)
        return cls(
            model,
            text.tokenizer,
            end_tokens=text.end_tokens,
            template=template or text.chat_template,
            special_tokens=text.special_tokens,
            context=text.context,
        )

    @classmethod
    def _of(cls, model: str, path: Path, template: str | None) -> TrainingTokenizer:
        config = read_object(path / "config.json")
        generation = optional_object(path / "generation_config.json")
        described = optional_object(path / "tokenizer_config.json")
        tokenizer = load_tokenizer(path / "tokenizer.json")
        special = special_tokens(path, described)
        ends = token_ids(path, "eos_token_id", generation, config)
        named = tokenizer.token_to_id(special.get("eos_token", ""))
        return cls(
            model,
            tokenizer,
            # the tokenizer's own ends a text; others may end an answer too
            end_tokens=tuple(dict.fromkeys(([] if named is None else [named]) + list(ends))),
            template=template or chat_template(path, described),
            special_tokens=special,
            context=next((config[k] for k in _CONTEXT_KEYS if type(config.get(k)) is int), None),
        )

    def __getstate__(self) -> dict[str, Any]:
        # a compiled template cannot be pickled; it is compiled again where it is used
        return {name: value for name, value in self.__dict__.items() if name != "_template"}

    @property
    def has_template(self) -> bool:
        """Whether conversations can be rendered."""
        return self._template_source is not None

    @property
    def digest(self) -> str:
        """sha256 of all that decides which tokens a text becomes."""
        parts = [
            self._tokenizer.to_str(),
            self._template_source,
            self._special_tokens,
            self.end_tokens,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Token ids of each text.

        Args:
            texts: Special tokens written out in them become those tokens.
            special: Add what the tokenizer adds around a text; not for a rendered conversation,
                which has them already.
        """
        return [
            encoding.ids
            for encoding in self._tokenizer.encode_batch_fast(
                list(texts), add_special_tokens=special
            )
        ]

    def render(
        self,
        messages: ChatMessages,
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation; encode it with `special=False`.

        Raises:
            RequestError: the template refuses the messages.
            ModelLoadError: it fails; or there is none.
        """
        return self._template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, values=values
        )

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens stand for, special tokens written out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text that each token adds; a character of several tokens is its last one's."""
        texts: list[str] = []
        # decoded with some tokens before it, since some decoders drop the space in front of a text;
        # not with all of them, or a long row would take minutes
        start, shown, waiting = 0, 0, 0
        for end in range(1, len(tokens) + 1):
            text = self.text(tokens[start:end])
            # a character has at most four bytes: what waits longer is broken in the data
            broken = text.endswith("\ufffd") and end < len(tokens) and waiting < 3
            texts.append("" if broken else text[shown:])
            shown, waiting = (shown, waiting + 1) if broken else (len(text), 0)
            if not broken and end - start >= _DECODED_TOGETHER:
                start = end - 1
                shown = len(self.text(tokens[start:end]))
        return texts

    def transformers(self) -> Any:
        """The same as a `transformers.PreTrainedTokenizerFast`, to be saved beside a model."""
        import transformers

        made_by: Any = transformers.PreTrainedTokenizerFast  # its parameters have no types
        made = made_by(tokenizer_object=self._tokenizer, **self._special_tokens)
        made.chat_template = self._template_source
        return made

    @cached_property
    def _template(self) -> ChatTemplate:
        if self._template_source is None:
            raise ModelLoadError(
                f"model {self.model!r} has no chat template; give chat_template, or data with "
                "prompt and completion",
                code="no_chat_template",
            )
        return ChatTemplate(
            self._template_source, self._special_tokens, self.model, now=TEMPLATE_TIME
        )


def model_path(model: str, settings: Settings) -> Path:
    """Folder or GGUF file of a model.

    Args:
        model: An id of the catalogue, or a path.
        settings: Of which the catalogue and the state directory count here.

    Raises:
        ModelNotFoundError: it is neither.
        ModelLoadError: its files are absent, or could not be fetched.
    """
    catalog = Catalog(settings.models)
    if model not in catalog and (path := Path(model).expanduser()).exists():
        return path
    return locate(catalog[model], settings.state_dir / "models")


def _template_source(given: str) -> str:
    if not given.endswith(".jinja"):
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"chat_template is {given!r}, which cannot be read ({error}); give an existing file "
            "in UTF-8, or the Jinja itself"
        ) from error
