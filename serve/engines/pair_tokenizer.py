"""Texts and pairs of texts to tokens for sequence classifiers, without torch or transformers.

A text is tokenised once, however many hypotheses it is paired with: the template of a pair (which
special tokens stand before, between and behind) is read off one probe. Special tokens written out
in a text are read as plain text, so that nobody forges a separator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ContextLengthError, ModelLoadError
from ironcliw.json_files import read_object
from serve.engines.protocol import Encoded, Tokens

_PROBE = "a"


@dataclass(frozen=True, slots=True)
class _Template:
    """Special tokens before, between and behind the parts; int32 each."""

    before: Tokens
    between: Tokens
    behind: Tokens

    @property
    def special(self) -> int:
        return len(self.before) + len(self.between) + len(self.behind)


class PairEncoder:
    """A classifier's tokenizer, cut to its window. Threads may share one.

    Args:
        folder: The model's folder, read and checked.

    Raises:
        ModelLoadError: tokenizer.json is absent or damaged.
    """

    def __init__(self, folder: EncoderFolder) -> None:
        config_file = folder.transformer / "tokenizer_config.json"
        config = read_object(config_file) if config_file.exists() else {}
        self._left = config.get("truncation_side") == "left"
        self._window = folder.max_tokens
        self._tokenizer = _load(folder.transformer / "tokenizer.json")
        self._single = _template(self._tokenizer.encode(_PROBE))
        self._pair = _template(self._tokenizer.encode(_PROBE, _PROBE))
        self.config = folder.config
        """The model's config.json."""
        self.labels = _labels(folder)
        """The classes' names, in the order of the logits."""

    @classmethod
    def load(cls, path: Path | str) -> PairEncoder:
        """Read a folder as transformers writes it; blocking, for tens of milliseconds."""
        return cls(EncoderFolder.read(path))

    @property
    def separator(self) -> int | None:
        """The special token that ends the first text of a pair; None where there is none."""
        return int(self._pair.between[0]) if len(self._pair.between) else None

    def single(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of each text by itself, special tokens included, cut to the window."""
        frame, room = self._single, self._window - self._single.special
        result = []
        for ids in self._ids(texts):
            kept = self._cut(ids, room)
            tokens = np.concatenate([frame.before, kept, frame.between, frame.behind])
            result.append(Encoded(tokens, len(ids) - len(kept)))
        return result

    def pairs(self, text: str, hypotheses: Sequence[str]) -> list[Encoded]:
        """Tokens of (text, hypothesis) for each hypothesis.

        Only the text is cut where both do not fit, as transformers' zero-shot pipeline does.

        Raises:
            ContextLengthError: a hypothesis alone fills the window.
        """
        (first,) = self._ids([text])
        frame, result = self._pair, []
        for hypothesis, second in zip(hypotheses, self._ids(hypotheses), strict=True):
            room = self._window - frame.special - len(second)
            if room < 1:
                raise ContextLengthError(
                    f"the hypothesis {hypothesis[:60]!r}... has {len(second)} tokens and leaves "
                    f"none of the model's {self._window} to the text; shorten it",
                    param="questions",
                )
            kept = self._cut(first, room)
            parts = [frame.before, kept, frame.between, second, frame.behind]
            result.append(Encoded(np.concatenate(parts), len(first) - len(kept)))
        return result

    def _ids(self, texts: Sequence[str]) -> list[Tokens]:
        encode = self._tokenizer.encode_batch_fast
        found = encode(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in found]

    def _cut(self, ids: Tokens, room: int) -> Tokens:
        if len(ids) <= room:
            return ids
        return ids[-room:] if self._left else ids[:room]


def _load(file: Path) -> tokenizers.Tokenizer:
    if not file.exists():
        raise ModelLoadError(
            f"{file} is absent; load the tokenizer with transformers and save_pretrained() it "
            "into the model's folder, which writes the file",
            code="model_file_absent",
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception, whatever is wrong
        raise ModelLoadError(f"{file} is damaged ({error}); download it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _template(probe: Any) -> _Template:
    """Special tokens around the parts of a probe; a part's tokens have a sequence id."""
    ids, owners = np.array(probe.ids, dtype=np.int32), probe.sequence_ids
    parts = [index for index, owner in enumerate(owners) if owner is not None]
    second = [index for index in parts if owners[index] == 1]
    first = [index for index in parts if owners[index] == 0]
    if not first:
        return _Template(ids, ids[:0], ids[:0])
    between = ids[first[-1] + 1 : second[0]] if second else ids[:0]
    return _Template(ids[: first[0]], between, ids[parts[-1] + 1 :])


def _labels(folder: EncoderFolder) -> tuple[str, ...]:
    named = folder.config.get("id2label")
    if not isinstance(named, Mapping) or not named:
        # transformers leaves both out for the default of two classes
        count = int(folder.config.get("num_labels") or 2)
        return tuple(f"LABEL_{index}" for index in range(count))
    try:
        pairs = sorted((int(index), str(label)) for index, label in named.items())
    except ValueError as error:
        raise ModelLoadError(
            f"{folder.transformer / 'config.json'}: id2label must map numbers to names ({error})"
        ) from error
    return tuple(label for _, label in pairs)
