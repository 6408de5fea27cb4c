"""All layers in one operator; test_contract.py says what the encoder's operators refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from native_ops import encoder as ops
from native_ops.encoder_layout import pack, unpack
from tests.unit.native_ops.levels import REFERENCE
from tests.unit.native_ops.operator_arguments import int32, starts

NUMBERS = ("float32", "bfloat16", "int8")
TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2, "int8": 0.15}


@dataclass(frozen=True)
class Model:
    """A random encoder, as the operator takes it."""

    width: int
    heads: int
    inner: int
    number: str
    layers: int = 2
    activation: str = "gelu"

    def arguments(self) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return torch.randn(shape, generator=generator) * scale

        width, inner = self.width, self.inner
        weights, vectors = [], [1 + draw(width, scale=0.1), draw(width, scale=0.1)]
        for _ in range(self.layers):
            shapes = ((3 * width, width), (width, width), (inner, width), (width, inner))
            kept = (ops.qkv_number(self.number), *[self.number] * 3)
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


def run(backend: str, *arguments: Any) -> torch.Tensor:
    reference = backend == REFERENCE
    operator = ops.encoder_forward_reference if reference else ops.encoder_forward
    result: torch.Tensor = operator(*arguments)
    return result


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("width", "heads", "inner"), [(64, 2, 96), (24, 3, 50), (1, 1, 1)])
@pytest.mark.parametrize("lengths", [[], [1], [3, 50, 1, 17], [600, 2]])
def test_against_float64(
    backend: str, number: str, width: int, heads: int, inner: int, lengths: list[int]
) -> None:
    rest = Model(width, heads, inner, number).arguments()
    ids, cu = tokens(sum(lengths)), starts(lengths)
    y = run(backend, ids, cu, *rest)
    assert (y.dtype, y.shape) == (torch.float32, (sum(lengths), width))
    expected = forward64(ids, lengths, *rest)
    torch.testing.assert_close(y.double(), expected, atol=TOLERANCE[number], rtol=TOLERANCE[number])


def forward64(ids: torch.Tensor, lengths: list[int], *rest: Any) -> torch.Tensor:
    """Written out once more, text by text, in float64."""
    words, places, weights, vectors, heads, inner, epsilon, activation, number = rest
    width = words.shape[1]
    v = [x.double() for x in vectors]

    def norm(x: torch.Tensor, at: int) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (width,), v[at], v[at + 1], epsilon)

    texts = []
    for text in torch.split(ids, lengths):
        x = norm(words[text.long()].double() + places[: len(text)], 0)
        for layer in range(len(weights) // 4):
            sizes = ((3 * width, width), (width, width), (inner, width), (width, inner))
            kept = (ops.qkv_number(number), number, number, number)
            w = [
                unpack(p, name, *size).double()
                for p, name, size in zip(weights[4 * layer :], kept, sizes, strict=False)
            ]
            at = 2 + 8 * layer
            q, k, value = (
                t.reshape(len(text), heads, -1).transpose(0, 1)
                for t in (x @ w[0].t() + v[at]).chunk(3, 1)
            )
            scores = (q @ k.transpose(1, 2) * (width // heads) ** -0.5).softmax(2)
            context = (scores @ value).transpose(0, 1).flatten(1)
            x = norm(x + context @ w[1].t() + v[at + 1], at + 4)
            up = ops.activated(x @ w[2].t() + v[at + 2], activation)
            x = norm(x + up @ w[3].t() + v[at + 3], at + 6)
        texts.append(x)
    return torch.cat(texts) if texts else torch.zeros(0, width).double()


# the reference's products may depend on the number of rows
@pytest.mark.parametrize("number", NUMBERS)
def test_a_text_has_the_same_bits_in_every_batch(level: str, number: str) -> None:
    rest = Model(64, 2, 128, number).arguments()
    lengths = [5, 300, 1, 33, 16, 260]
    ids = tokens(sum(lengths))
    together = run(level, ids, starts(lengths), *rest)
    assert torch.equal(together, run(level, ids, starts(lengths), *rest))
    for rows in torch.split(torch.arange(len(ids)), lengths):
        alone = run(level, ids[rows], starts([len(rows)]), *rest)
        assert torch.equal(together[rows], alone)


def test_threads_do_not_change_the_bits(backend: str) -> None:
    rest = Model(64, 2, 128, "bfloat16").arguments()
    lengths = [600, 40, 3, 90]
    ids = tokens(sum(lengths))
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run(backend, ids, starts(lengths), *rest))
    torch.testing.assert_close(*results, atol=1e-6 if backend == REFERENCE else 0, rtol=0)


def test_nan_stays_in_its_text(backend: str) -> None:
    words, *rest = Model(32, 2, 64, "bfloat16").arguments()
    words = words.clone()
    words[7] = torch.nan
    ids = torch.tensor([1, 2, 7, 3, 4, 5], dtype=torch.int32)
    y = run(backend, ids, starts([2, 2, 2]), words, *rest)
    assert y.isnan().any(1).tolist() == [False, False, True, True, False, False]


CU, IDS = int32(0, 2), int32(1, 2)


def test_without_layers_nothing_is_as_wide_as_inner(backend: str) -> None:
    words, places, _, vectors, heads, _, *rest = Model(8, 1, 8, "float32").arguments()
    least = run(backend, IDS, CU, words, places, [], vectors[:2], heads, 1, *rest)
    most = run(backend, IDS, CU, words, places, [], vectors[:2], heads, 2**62, *rest)
    assert torch.equal(least, most)
