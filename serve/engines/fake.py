"""An engine without weights: the seam for tests of everything around an engine.

Chosen by a catalogue entry with the source `fake:D` (D dimensions). A vector is a pure function of
its tokens, so that a test can tell whether an answer belongs to its question. Optional settings
follow as a query: `fake:8?seconds=0.5` computes that long, `fake:8?fail=1` cannot be loaded.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from urllib.parse import parse_qsl

import numpy as np

from ironcliw.errors import ModelLoadError, RequestError
from serve.engines.protocol import Encoded, PackedTokens, Vectors

VOCABULARY = 65_536
CONTEXT = 512


class FakeEngine:
    """Vectors by hashing; computes for `seconds` a batch."""

    device = "cpu"
    precision = "float32"

    def __init__(self, source: str) -> None:
        dimensions, _, query = source.removeprefix("fake:").partition("?")
        options = dict(parse_qsl(query))
        if options.get("fail"):
            raise ModelLoadError(f"source {source!r} says that it cannot be loaded")
        self.dimensions = int(dimensions)
        self.resident_bytes = int(options.get("bytes", 1_000_000))
        self._seconds = float(options.get("seconds", 0))

    def embed(self, batch: PackedTokens) -> Vectors:
        """Normalised vectors, float32 [B, D]."""
        if self._seconds:
            time.sleep(self._seconds)
        ends = np.cumsum(batch.lengths)
        starts = ends - batch.lengths
        return np.stack(
            [self._vector(batch.tokens[a:b]) for a, b in zip(starts, ends, strict=True)]
        )

    def _vector(self, tokens: np.ndarray) -> np.ndarray:
        digest = hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=8).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "little"))
        vector = generator.standard_normal(self.dimensions).astype(np.float32)
        return vector / np.linalg.norm(vector)

    def close(self) -> None:
        """Nothing to free."""


class FakeClassifier(FakeEngine):
    """Logits by hashing, C classes named `label-0`, ...; `labels=yes|no` names them."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        given = dict(parse_qsl(source.partition("?")[2])).get("labels")
        names = given.split("|") if given else [f"label-{i}" for i in range(self.dimensions)]
        if len(names) != self.dimensions:
            raise ModelLoadError(f"source {source!r} names {len(names)} labels")
        self.labels = tuple(names)

    def classify(self, batch: PackedTokens) -> Vectors:
        """Logits, float32 [B, C]."""
        return self.embed(batch)


class FakeTextEncoder:
    """One token a word, by hashing."""

    context = CONTEXT
    prompts: dict[str, str] = {}  # noqa: RUF012

    def encode(self, texts: Sequence[str], prompt: str = "") -> list[Encoded]:
        """Tokens of each text, cut to the window."""
        return [self._encode(prompt + text) for text in texts]

    def check(self, tokens: Sequence[int]) -> Encoded:
        """Token ids given by the client."""
        if any(not 0 <= token < VOCABULARY for token in tokens):
            raise RequestError(f"token ids must be in 0..{VOCABULARY - 1}", param="input")
        array = np.asarray(tokens, dtype=np.int32)
        return Encoded(array[:CONTEXT], max(0, len(array) - CONTEXT))

    def _encode(self, text: str) -> Encoded:
        ids = [
            int.from_bytes(hashlib.blake2b(word.encode(), digest_size=2).digest(), "little")
            for word in (text.split() or [""])
        ]
        return self.check(ids)
