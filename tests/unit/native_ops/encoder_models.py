"""Random encoders, adapters of them, and what they are in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from native_ops.decoder_adapters import LowRank
from native_ops.encoder import activated
from native_ops.encoder_adapters import PARTS, EncoderSizes, Place
from native_ops.encoder_layout import pack, qkv_number, unpack

NUMBERS = ("float32", "bfloat16", "int8")
TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2, "int8": 0.15}
Changes = Mapping[Place, LowRank]


@dataclass(frozen=True)
class Model:
    """A random encoder, as the operator takes it."""

    width: int
    heads: int
    inner: int
    number: str
    layers: int = 2
    activation: str = "gelu"

    @property
    def sizes(self) -> EncoderSizes:
        return EncoderSizes(self.layers, self.width, self.inner, self.number)

    def changes(self, ranks: int, seed: int = 0, parts: Sequence[str] = PARTS) -> Changes:
        """Random ones of some parts of all layers, about half as large as the weights."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        found = {}
        for layer in range(self.layers):
            for part in parts:
                outputs, inputs = self.sizes.of(part)
                a, b = draw(ranks, inputs) * inputs**-0.5, draw(outputs, ranks) * ranks**-0.5
                found[layer, part] = LowRank(a, b, 0.5)
        return found

    def arguments(self) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return torch.randn(shape, generator=generator) * scale

        width, inner = self.width, self.inner
        weights, vectors = [], [1 + draw(width, scale=0.1), draw(width, scale=0.1)]
        for _ in range(self.layers):
            shapes = ((3 * width, width), (width, width), (inner, width), (width, inner))
            kept = (qkv_number(self.number), *[self.number] * 3)
            weights += [
                pack(draw(n, k, scale=k**-0.5), number)
                for (n, k), number in zip(shapes, kept, strict=True)
            ]
            vectors += [draw(n, scale=0.1) for n, _ in shapes]
            for _ in range(2):
                vectors += [1 + draw(width, scale=0.1), draw(width, scale=0.1)]
        tables = (draw(50, width), draw(600, width))
        settings = (self.heads, inner, 1e-6, self.activation, self.number)
        return (*tables, weights, vectors, *settings)


def tokens(count: int) -> torch.Tensor:
    return torch.randint(0, 50, (count,), dtype=torch.int32)


def forward64(
    ids: torch.Tensor, lengths: list[int], *rest: Any, changes: Sequence[Changes] = ()
) -> torch.Tensor:
    """Written out once more, text by text, in float64; what changes a text's weights is merged."""
    words, places, weights, vectors, heads, inner, epsilon, activation, number = rest
    width = words.shape[1]
    v = [x.double() for x in vectors]

    def norm(x: torch.Tensor, at: int) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (width,), v[at], v[at + 1], epsilon)

    texts = []
    for number_of_text, text in enumerate(torch.split(ids, lengths)):
        changed = changes[number_of_text] if changes else {}
        x = norm(words[text.long()].double() + places[: len(text)], 0)
        for layer in range(len(weights) // 4):
            sizes = ((3 * width, width), (width, width), (inner, width), (width, inner))
            kept = (qkv_number(number), number, number, number)
            w = [
                unpack(p, name, *size).double()
                for p, name, size in zip(weights[4 * layer :], kept, sizes, strict=False)
            ]
            for part, change in ((part, changed.get((layer, part))) for part in PARTS):
                if change is not None:
                    of_part(w, part, width).add_(
                        change.b.double() @ change.a.double(), alpha=change.scale
                    )
            at = 2 + 8 * layer
            q, k, value = (
                t.reshape(len(text), heads, -1).transpose(0, 1)
                for t in (x @ w[0].t() + v[at]).chunk(3, 1)
            )
            scores = (q @ k.transpose(1, 2) * (width // heads) ** -0.5).softmax(2)
            context = (scores @ value).transpose(0, 1).flatten(1)
            x = norm(x + context @ w[1].t() + v[at + 1], at + 4)
            up = activated(x @ w[2].t() + v[at + 2], activation)
            x = norm(x + up @ w[3].t() + v[at + 3], at + 6)
        texts.append(x)
    return torch.cat(texts) if texts else torch.zeros(0, width).double()


def of_part(weights: list[torch.Tensor], part: str, width: int) -> torch.Tensor:
    """The weight of a part, where it stands among the four of a layer."""
    at = PARTS.index(part)
    return weights[0][at * width : (at + 1) * width] if at < 3 else weights[at - 2]
