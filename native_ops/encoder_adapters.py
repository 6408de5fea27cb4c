"""Low-rank changes of an encoder's matrices (LoRA), as the operator `encoder_forward` takes them.

An adapter is one uint8 tensor and its ranks, int64 [layers, 6], 0 where a part of a layer is as it
is. For each layer, and in it for each part with ranks, A and then B stand one after the other,
packed as the encoder's own query, key and value (csrc/kernels/encoder.h says how, and what stands
before the outputs of key and value).

R ranks, K inputs, N outputs of a part, D width; A is [R, K], B [N, R].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from native_ops.checks import check_contiguous, check_dim, check_dtype, check_size, need
from native_ops.decoder_adapters import LowRank
from native_ops.encoder_layout import PANEL, pack, packed_bytes, qkv_number, unpack
from native_ops.huge_pages import zeros_in_huge_pages

PARTS = ("query", "key", "value", "attention_out", "up", "down")
"""Of a layer, in the order of their ranks."""
MOST_RANKS = 1024
"""Of a part."""
NO_ADAPTER = -1
"""In place of an adapter's number: the text is under none."""

_OPERATOR = "encoder_forward"

Place = tuple[int, str]
"""A layer and a part of it."""


@dataclass(frozen=True, slots=True)
class EncoderSizes:
    """What an adapter must fit.

    Attributes:
        layers: How many.
        width: D.
        inner: Width of the feed-forward layers.
        number: What the weights are kept as.
    """

    layers: int
    width: int
    inner: int
    number: str

    def of(self, part: str) -> tuple[int, int]:
        """N and K of a part."""
        if part == "up":
            return self.inner, self.width
        return self.width, self.inner if part == "down" else self.width

    def lead(self, part: str) -> int:
        """Outputs of zeros that stand before those of a part's B."""
        at = PARTS.index(part)
        return at * self.width % PANEL if at < 3 else 0


@dataclass(frozen=True, slots=True, eq=False)
class PackedEncoderAdapter:
    """An adapter as `encoder_forward` takes it.

    Attributes:
        weights: uint8.
        ranks: int64 [layers, 6].
    """

    weights: torch.Tensor
    ranks: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.weights.nbytes + self.ranks.nbytes


def pack_encoder_adapter(
    sizes: EncoderSizes, changes: Mapping[Place, LowRank]
) -> PackedEncoderAdapter:
    """Bring an adapter into the form of `encoder_forward`.

    Args:
        sizes: Of the encoder that it changes.
        changes: float32, by layer and part.

    Raises:
        ValueError: a part that the encoder lacks, another shape than the part asks for, too many
            ranks, or a number that is not finite.
    """
    number = qkv_number(sizes.number)
    ranks = torch.zeros(sizes.layers, len(PARTS), dtype=torch.int64)
    pieces: list[torch.Tensor] = []
    left = dict(changes)
    for layer, part in _places(sizes):
        change = left.pop((layer, part), None)
        if change is None:
            continue
        a, b = change.a.float(), change.b.float() * change.scale
        _check_change(sizes, layer, part, a, b)
        ranks[layer, PARTS.index(part)] = len(a)
        pieces += (pack(a, number), pack(F.pad(b, (0, 0, sizes.lead(part), 0)), number))
    if left:
        layer, part = min(left)
        raise ValueError(f"the model has no part {part!r} of layer {layer}")
    weights = zeros_in_huge_pages(sum(map(len, pieces)))
    if pieces:
        torch.cat(pieces, out=weights)
    return PackedEncoderAdapter(weights, ranks)


def _places(sizes: EncoderSizes) -> Iterator[Place]:
    return ((layer, part) for layer in range(sizes.layers) for part in PARTS)


def _check_change(
    sizes: EncoderSizes, layer: int, part: str, a: torch.Tensor, b: torch.Tensor
) -> None:
    outputs, inputs = sizes.of(part)
    ranks = len(a)
    name = f"{part} of layer {layer}"
    if not 1 <= ranks <= MOST_RANKS:
        raise ValueError(f"{name} has rank {ranks}; it must be from 1 to {MOST_RANKS}")
    for half, tensor, wanted in (
        ("A", a, (ranks, inputs)),
        ("B", b, (outputs, ranks)),
    ):
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{half} of {name} has the shape {[*tensor.shape]}; the model asks for {[*wanted]}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{half} of {name} holds a number that is not finite")


class AdaptersOfTexts:
    """Adapters of a call of the reference, once all that the operator is told of them was checked.

    Args:
        sizes: Of the encoder.
        adapters: uint8, each.
        ranks: int64 [layers, 6], of each.
        text_adapters: int32 [B], the number of each text's adapter; [0] where there are none.
        texts: B.

    Raises:
        RuntimeError: in the words of csrc/bind/encoder_adapters.h.
    """

    def __init__(
        self,
        sizes: EncoderSizes,
        adapters: Sequence[torch.Tensor],
        ranks: Sequence[torch.Tensor],
        text_adapters: torch.Tensor,
        texts: int,
    ) -> None:
        rule = f"adapter_ranks must be one for each of {len(adapters)} adapters"
        need(len(ranks) == len(adapters), _OPERATOR, f"{rule}; they are {len(ranks)}")
        given = enumerate(zip(adapters, ranks, strict=True))
        self._changes = [_read(sizes, at, *each) for at, each in given]
        _check_texts(text_adapters, len(adapters), texts)
        self._of_text = text_adapters.tolist()

    def add(
        self, layer: int, part: str, x: torch.Tensor, y: torch.Tensor, texts: Sequence[slice]
    ) -> None:
        """y [T, N] += what each text's adapter adds to a part; x [T, K], its input."""
        for number, rows in zip(self._of_text, texts, strict=False):
            change = self._changes[number].get((layer, part)) if number >= 0 else None
            if change is not None:
                y[rows] += F.linear(F.linear(x[rows], change.a), change.b)


def _check_texts(text_adapters: torch.Tensor, adapters: int, texts: int) -> None:
    name = "text_adapters"
    check_dtype(_OPERATOR, name, text_adapters, torch.int32)
    check_dim(_OPERATOR, name, text_adapters, 1)
    check_size(_OPERATOR, name, text_adapters, 0, texts if adapters else 0)
    for at, number in enumerate(text_adapters.tolist()):
        rule = f"{name} must be from {NO_ADAPTER} to {adapters - 1}; element {at} is {number}"
        need(NO_ADAPTER <= number < adapters, _OPERATOR, rule)


def _read(
    sizes: EncoderSizes, index: int, weights: torch.Tensor, ranks: torch.Tensor
) -> dict[Place, LowRank]:
    name, of_ranks = f"adapters[{index}]", f"adapter_ranks[{index}]"
    check_dtype(_OPERATOR, of_ranks, ranks, torch.int64)
    check_dim(_OPERATOR, of_ranks, ranks, 2)
    check_size(_OPERATOR, of_ranks, ranks, 0, sizes.layers)
    check_size(_OPERATOR, of_ranks, ranks, 1, len(PARTS))
    check_dtype(_OPERATOR, name, weights, torch.uint8)
    check_dim(_OPERATOR, name, weights, 1)
    check_contiguous(_OPERATOR, name, weights)
    number = qkv_number(sizes.number)
    shapes: list[tuple[Place, tuple[int, int], tuple[int, int]]] = []
    for (layer, part), rank in zip(_places(sizes), ranks.flatten().tolist(), strict=True):
        at = f"of layer {layer} number {PARTS.index(part)} is {rank}"
        rule = f"{of_ranks} must be from 0 to {MOST_RANKS}; {at}"
        need(0 <= rank <= MOST_RANKS, _OPERATOR, rule)
        if rank:
            outputs, inputs = sizes.of(part)
            shapes.append(((layer, part), (rank, inputs), (sizes.lead(part) + outputs, rank)))
    pieces = [packed_bytes(number, *shape) for _, a, b in shapes for shape in (a, b)]
    check_size(_OPERATOR, name, weights, 0, sum(pieces))
    halves = iter(torch.split(weights, pieces)) if pieces else iter(())
    changes = {}
    for (layer, part), a_shape, b_shape in shapes:
        a = unpack(next(halves), number, *a_shape)
        b = unpack(next(halves), number, *b_shape)[sizes.lead(part) :]
        changes[layer, part] = LowRank(a, b, 1.0)
    return changes
