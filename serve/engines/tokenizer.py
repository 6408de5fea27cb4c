"""Texts to tokens, in the process that has the request. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.encoder_tokenizer import load_encoder_tokenizer
from ironcliw.errors import ModelLoadError, RequestError
from ironcliw.json_files import read_object
from serve.engines.protocol import Encoded


class TextEncoder:
    """A model's tokenizer, cut to the model's window. Threads may share one.

    Args:
        folder: The model's folder, read and checked.

    Raises:
        ModelLoadError: the tokenizer is absent, damaged or unknown.
    """

    def __init__(self, folder: EncoderFolder) -> None:
        config_file = folder.transformer / "tokenizer_config.json"
        config = read_object(config_file) if config_file.exists() else {}
        self._side = "left" if config.get("truncation_side") == "left" else "right"
        self._window = folder.max_tokens
        self._tokenizer = load_encoder_tokenizer(folder)
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if self._special >= self._window:
            raise ModelLoadError(
                f"{folder.path}: a window of {self._window} tokens leaves no room beside the "
                f"{self._special} special ones; correct max_seq_length"
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._window, direction=self._side)
        self._vocabulary = folder.vocabulary or self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], prompt: str = "") -> list[Encoded]:
        """Tokens of each text, special tokens included.

        Args:
            texts: Any lengths; the lock of the interpreter is released while many are encoded.
            prompt: Put before each text, as sentence-transformers does.

        Returns:
            One entry a text, in order; `truncated` counts the tokens that did not fit.
        """
        full = [prompt + text for text in texts] if prompt else list(texts)
        if len(full) == 1:
            return [self._encoded(self._tokenizer.encode(full[0]))]
        return [self._encoded(encoding) for encoding in self._tokenizer.encode_batch_fast(full)]

    def _encoded(self, encoding: Any) -> Encoded:
        tokens = np.array(encoding.ids, dtype=np.int32)
        if len(tokens) < self._window:
            return Encoded(tokens)
        # what did not fit comes in pieces of the window's size, each with special tokens
        cut = sum(len(piece) - self._special for piece in encoding.overflowing)
        return Encoded(tokens, cut)

    def check(self, tokens: Sequence[int]) -> Encoded:
        """Token ids given by the client, checked and cut to the window; nothing is added to them.

        Raises:
            RequestError: there are none, or one is not an id of this model; names its index.
        """
        if len(tokens) == 0:
            raise RequestError("the token array is empty; send at least one id", param="input")
        array = np.asarray(tokens)
        if array.ndim != 1 or array.dtype.kind not in "iu" or not self._in_range(array):
            raise self._bad_token(tokens)
        kept = array[-self._window :] if self._side == "left" else array[: self._window]
        return Encoded(kept.astype(np.int32), len(array) - len(kept))

    def _in_range(self, array: np.ndarray[Any, Any]) -> bool:
        return int(array.min()) >= 0 and int(array.max()) < self._vocabulary

    def _bad_token(self, tokens: Sequence[int]) -> RequestError:
        index, token = next(
            (i, t)
            for i, t in enumerate(tokens)
            if isinstance(t, bool | np.bool_)
            or not isinstance(t, int | np.integer)
            or not 0 <= t < self._vocabulary
        )
        return RequestError(
            f"token {index} is {token!r:.40}; this model's ids are the integers from 0 to "
            f"{self._vocabulary - 1}",
            param="input",
        )
