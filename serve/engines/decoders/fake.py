"""A decoder without weights: the seam for tests of everything above a decoder.

Chosen by a catalogue entry with the source `fake:V` (V token ids). Logits are a pure function of
the slot's tokens, so that a test can tell whether a job's answer depends on anything else. Whoever
breaks the contract of `serve.generation.protocol` gets an AssertionError. Settings follow as a
query, `fake:300?slots=4&text=Hello`:

    context, slots, kv       positions of a sequence, sequences, positions over all of them
    seconds, token_seconds   a step takes so long, and so much more for each token of it
    text                     every answer is this text, then END; again, where END ends nothing
    endless                  1: answers are letters from a to z, drawn by hashing, and never END
    seq2seq                  1: sources are begun, sequences start with token 0
    fail, nan                1: cannot be loaded; computes NaN
    bytes, kv_bytes          says that it holds so many of weights, and of a KV cache

`text` looks for the longest end of what was read that begins the text, and goes on from there: a
prompt should not end with the text's first letters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import parse_qsl

import numpy as np
import tokenizers

from ironcliw.errors import ContextLengthError, ModelLoadError, RequestError
from serve.engines.protocol import Tokens
from serve.generation.protocol import Logits, Step

END = 256
"""The token after the 256 bytes: end of text."""

START = 257
"""Begins a message of a chat."""

_DEFAULTS = {
    "context": "512",
    "slots": "8",
    "kv": "",
    "seconds": "0",
    "token_seconds": "0",
    "text": "",
    "endless": "",
    "seq2seq": "",
    "fail": "",
    "nan": "",
    "bytes": "1000000",
    "kv_bytes": "0",
}
_MASK = 2**64 - 1
_MULTIPLIER = 6364136223846793005  # Knuth's MMIX: any odd constant that mixes would do
_CERTAIN = 60.0  # a logit beside zeros that no draw at an allowed temperature misses


class FakeDecoder:
    """Logits by hashing, or always the same text.

    Args:
        source: See the module.

    Raises:
        ModelLoadError: the source says so, or is malformed.
    """

    device = "cpu"
    precision = "float32"

    def __init__(self, source: str) -> None:
        options = _options(source)
        if options["fail"]:
            raise ModelLoadError(f"source {source!r} says that it cannot be loaded")
        self.vocabulary = int(options["vocabulary"])
        self.context = int(options["context"])
        self.slots = int(options["slots"])
        self.kv_tokens = int(options["kv"] or self.slots * self.context)
        self.start_token = 0 if options["seq2seq"] else None
        self.kv_bytes = int(options["kv_bytes"])
        self.resident_bytes = int(options["bytes"]) + self.kv_bytes
        self.closed = False
        self._seconds = float(options["seconds"])
        self._token_seconds = float(options["token_seconds"])
        self._nan = bool(options["nan"])
        self._text = options["text"].encode()
        self._endless = bool(options["endless"])
        if (self._text or self._endless) and self.vocabulary <= END:
            raise ModelLoadError(
                f"source {source!r}: text= and endless= need {END + 1} token ids or more"
            )
        self._sources: dict[int, Tokens] = {}
        self._hashes: dict[int, list[int]] = {}  # of each beginning of a slot's sequence
        self._matched: dict[int, list[int]] = {}  # letters of the text at the end of each
        table = np.random.default_rng(0).standard_normal(2 * self.vocabulary)
        self._table = (3 * table).astype(np.float32)
        self._borders = _borders(self._text)

    @property
    def held_tokens(self) -> int:
        """Positions held over all slots, sources counted."""
        held = sum(len(hashes) - 1 for hashes in self._hashes.values())
        return held + sum(len(source) for source in self._sources.values())

    def held_slots(self) -> frozenset[int]:
        """Slots that are not empty."""
        return frozenset(self._hashes)

    def begin(self, slot: int, source: Tokens) -> None:
        """Keep the source; the answer is a function of it too."""
        assert self.start_token is not None, "a causal model has nothing to begin"
        self._check_slot(slot)
        assert slot not in self._hashes, f"slot {slot} is begun but was not freed"
        self._check_tokens(source)
        self._sources[slot] = source
        seed = 1
        for token in source.tolist():
            seed = _mix(seed, token)
        self._hashes[slot], self._matched[slot] = [seed], [0]
        assert self.held_tokens <= self.kv_tokens, "more positions are held than kv_tokens"

    def forward(self, step: Step) -> Logits:
        """Logits, float32 [R, V], of the sequences after the wanted tokens."""
        count = len(step.tokens)
        assert not self.closed, "the decoder was closed"
        assert count > 0 and len(step.positions) == len(step.slots) == count, "ragged arrays"
        rows = step.logit_rows.tolist()
        assert all(a < b for a, b in pairwise(rows)), "logit_rows must rise"
        assert not rows or 0 <= rows[0] <= rows[-1] < count, "logit_rows outside the step"
        self._check_tokens(step.tokens)
        if int(step.positions.max()) >= self.context:
            raise ContextLengthError(
                f"position {int(step.positions.max())} is outside the context of {self.context}"
            )
        if self._seconds or self._token_seconds:
            time.sleep(self._seconds + self._token_seconds * count)
        logits = np.empty((len(rows), self.vocabulary), np.float32)
        wanted = {row: number for number, row in enumerate(rows)}
        for begin, end in _runs(step.slots):
            slot = int(step.slots[begin])
            self._forget_from(slot, step.positions[begin:end])
            for row in range(begin, end):
                self._append(slot, int(step.tokens[row]))
                if row in wanted:
                    self._write(slot, logits[wanted[row]])
        assert self.held_tokens <= self.kv_tokens, "more positions are held than kv_tokens"
        return logits

    def free(self, slot: int) -> None:
        """Forget a slot's sequence."""
        self._check_slot(slot)
        for held in (self._hashes, self._matched, self._sources):
            held.pop(slot, None)

    def close(self) -> None:
        """Nothing to free; further calls are refused."""
        self.closed = True

    def _forget_from(self, slot: int, positions: Tokens) -> None:
        self._check_slot(slot)
        if self.start_token is None:
            self._hashes.setdefault(slot, [1])
            self._matched.setdefault(slot, [0])
        assert slot in self._hashes, f"slot {slot} has no source: begin comes first"
        first, length = int(positions[0]), len(self._hashes[slot]) - 1
        assert 0 <= first <= length, f"slot {slot} holds {length} positions, {first} leaves a gap"
        assert np.array_equal(positions, np.arange(first, first + len(positions))), "not in order"
        del self._hashes[slot][first + 1 :]
        del self._matched[slot][first + 1 :]

    def _append(self, slot: int, token: int) -> None:
        self._hashes[slot].append(_mix(self._hashes[slot][-1], token))
        matched = self._matched[slot][-1]
        while matched and (matched == len(self._text) or self._text[matched] != token):
            matched = self._borders[matched]
        if matched < len(self._text) and self._text[matched] == token:
            matched += 1
        self._matched[slot].append(matched)

    def _write(self, slot: int, row: Logits) -> None:
        if self._nan:
            row[:] = np.nan
        elif self._text:
            matched = self._matched[slot][-1]
            row[:] = 0
            row[self._text[matched] if matched < len(self._text) else END] = _CERTAIN
        else:
            begin = self._hashes[slot][-1] % self.vocabulary
            row[:] = self._table[begin : begin + self.vocabulary]
            if self._endless:
                row[: ord("a")] = row[ord("z") + 1 :] = -_CERTAIN

    def _check_slot(self, slot: int) -> None:
        assert not self.closed, "the decoder was closed"
        assert 0 <= slot < self.slots, f"slot {slot} is outside 0..{self.slots - 1}"

    def _check_tokens(self, tokens: Tokens) -> None:
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocabulary:
            raise RequestError(f"token ids must be in 0..{self.vocabulary - 1}")


def fake_tokenizer() -> tokenizers.Tokenizer:
    """The tokenizer that belongs to a `FakeDecoder`: token b is the byte b.

    Beside them `<|end|>` is `END` and `<|im_start|>` is `START`.
    """
    from tokenizers import decoders, models, pre_tokenizers

    # the same letters for bytes as GPT-2's: the printable ones stand for themselves
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    vocabulary = {letter: byte for byte, letter in letters.items()}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|im_start|>"])
    return tokenizer


def _options(source: str) -> dict[str, str]:
    vocabulary, _, query = source.removeprefix("fake:").partition("?")
    options = _DEFAULTS | dict(parse_qsl(query))
    if unknown := options.keys() - _DEFAULTS.keys():
        raise ModelLoadError(
            f"source {source!r}: unknown {', '.join(sorted(unknown))}; known are "
            f"{', '.join(_DEFAULTS)}"
        )
    if not vocabulary.isdecimal() or int(vocabulary) < 2:
        raise ModelLoadError(f"source {source!r}: give the number of token ids, such as fake:300")
    return options | {"vocabulary": vocabulary}


def _mix(seed: int, token: int) -> int:
    product = ((seed ^ (token + 1)) * _MULTIPLIER) & _MASK
    return product ^ (product >> 31)


def _borders(text: bytes) -> list[int]:
    """For each n, the longest proper beginning of text[:n] that also ends it (Knuth, Morris and
    Pratt, 1977)."""
    borders = [0, 0]
    for end in range(1, len(text)):
        length = borders[end]
        while length and text[length] != text[end]:
            length = borders[length]
        borders.append(length + (text[length] == text[end]))
    return borders


def _runs(slots: Tokens) -> Iterator[tuple[int, int]]:
    """Begin and end of each slot's tokens."""
    edges = [0, *(np.flatnonzero(np.diff(slots)) + 1).tolist(), len(slots)]
    firsts = [int(slots[edge]) for edge in edges[:-1]]
    assert len(set(firsts)) == len(firsts), "a slot's tokens must stand together"
    return pairwise(edges)
