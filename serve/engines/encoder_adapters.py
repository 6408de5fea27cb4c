"""LoRA adapters of encoders of the BERT family, for texts of one batch under different ones.

L adapters, R ranks of the largest, K inputs and N outputs of a matrix, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ironcliw.errors import AdapterError
from native_ops.decoder_adapters import LowRank
from native_ops.grouped_lora import grouped_lora
from serve.engines.architecture import Architecture
from serve.engines.peft_files import low_rank, read_config, read_modules

PARTS = ("qkv", "attention_out", "up", "down")
"""The matrices of a layer, in the order of its weights; query, key and value are one."""
_KEPT = 32
"""Adapters that lie side by side, if no batch has more."""
Place = tuple[int, str]
"""A layer and a part of it."""


@dataclass(frozen=True, slots=True, eq=False)
class EncoderAdapter:
    """An adapter in memory.

    Attributes:
        changes: What is added to the matrices that it changes, its scale inside of B.
        precision: Of its numbers.
    """

    changes: Mapping[Place, LowRank]
    precision: str
    device: str = "cpu"

    @property
    def resident_bytes(self) -> int:
        """Held in memory."""
        return sum(each.a.nbytes + each.b.nbytes for each in self.changes.values())

    def close(self) -> None:
        """Nothing to do: the memory goes with the last batch that uses it."""


def read_encoder_adapter(
    architecture: Architecture, inner: int, folder: Path, dtype: torch.dtype
) -> EncoderAdapter:
    """An adapter's files for an encoder; blocking, for tens of milliseconds.

    Args:
        architecture: Of the encoder.
        inner: Width of its feed-forward layers.
        folder: With adapter_config.json and adapter_model.safetensors.
        dtype: Of its numbers in memory: float32 or bfloat16.

    Raises:
        AdapterError: damaged files, another kind of adapter, or not one of this model.
    """
    config = read_config(folder)
    # read without what stands before GPT-2's names, and DistilBERT's
    modules = {_short(name): halves for name, halves in read_modules(folder).items()}
    width = architecture.hidden
    changes: dict[Place, LowRank] = {}
    used: set[str] = set()
    for layer in range(architecture.layers):
        names = architecture.layer(layer)
        groups = (
            ("qkv", (names.query, names.key, names.value), width, width),
            ("attention_out", (names.attention_out,), width, width),
            ("up", (names.up,), inner, width),
            ("down", (names.down,), width, inner),
        )
        for part, members, outputs, inputs in groups:
            found = [
                low_rank(folder, config, name, modules[_short(name)], outputs, inputs)
                if _short(name) in modules
                else None
                for name in members
            ]
            used |= {_short(name) for name in members} & modules.keys()
            if any(each is not None for each in found):
                joined = _below_each_other(found, outputs)
                changes[layer, part] = LowRank(joined.a.to(dtype), joined.b.to(dtype), 1.0)
    if unused := sorted(modules.keys() - used):
        raise AdapterError(
            f"{folder}: it changes {unused[0]}, which is no matrix of a layer of this model; it "
            "belongs to another model, or changes the embedding: train it on this model's layers"
        )
    return EncoderAdapter(changes, str(dtype).removeprefix("torch."))


def _short(name: str) -> str:
    return name.removeprefix("transformer.")


def _below_each_other(parts: Sequence[LowRank | None], outputs: int) -> LowRank:
    """One change of joined matrices from those of each, which have the same inputs."""
    given = [(at, part) for at, part in enumerate(parts) if part is not None]
    ranks = [part.a.shape[0] for _, part in given]
    b = torch.zeros(outputs * len(parts), sum(ranks))
    first = 0
    for (at, part), rank in zip(given, ranks, strict=True):
        b[at * outputs : (at + 1) * outputs, first : first + rank] = part.b.float() * part.scale
        first += rank
    return LowRank(torch.cat([part.a.float() for _, part in given]), b, 1.0)


@dataclass(frozen=True, slots=True)
class _Side:
    """The adapters of one matrix as `grouped_lora` reads them."""

    a: torch.Tensor
    b: torch.Tensor
    ranks: torch.Tensor


class AdapterBank:
    """Adapters side by side; what lies beside what is kept while batches ask for the same."""

    def __init__(self) -> None:
        self._numbers: dict[EncoderAdapter, int] = {}
        self._sides: dict[Place, _Side] = {}
        self._scales = torch.zeros(0)

    def numbers(self, adapters: Sequence[EncoderAdapter]) -> list[int]:
        """The number of each adapter; `add` knows them by it until the next call."""
        if any(adapter not in self._numbers for adapter in adapters):
            # those of the batches before stay beside them: the next one may ask for both
            both = list(dict.fromkeys([*adapters, *self._numbers]))
            kept = both[: max(_KEPT, len(set(adapters)))]
            self._numbers = {adapter: at for at, adapter in enumerate(kept)}
            places = {place for adapter in self._numbers for place in adapter.changes}
            self._sides = {place: self._side(place) for place in places}
            self._scales = torch.ones(len(self._numbers))
        return [self._numbers[adapter] for adapter in adapters]

    def add(self, place: Place, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> None:
        """y += what each row's adapter adds to a matrix.

        Args:
            place: Of the matrix.
            x: float32 [T, K], its input.
            y: float32 [T, N], its output; changed in place.
            rows: int64 [T], the number of each row's adapter.
        """
        side = self._sides.get(place)
        if side is not None:
            grouped_lora(x, y, side.a, side.b, side.ranks, self._scales, rows)

    def _side(self, place: Place) -> _Side:
        found = [adapter.changes.get(place) for adapter in self._numbers]
        given = [each for each in found if each is not None]
        most = max(each.a.shape[0] for each in given)
        dtype = torch.float32 if any(each.a.dtype == torch.float32 for each in given) else None
        dtype = dtype or given[0].a.dtype
        inputs, outputs = given[0].a.shape[1], given[0].b.shape[0]
        a = torch.zeros(len(found), most, inputs, dtype=dtype)
        # neighbours are outputs of one rank: the kernel's fast layout
        b = torch.zeros(len(found), most, outputs, dtype=dtype)
        ranks = torch.zeros(len(found), dtype=torch.int64)
        for at, each in enumerate(found):
            if each is not None:
                rank = each.a.shape[0]
                a[at, :rank], b[at, :rank], ranks[at] = each.a, each.b.T, rank
        return _Side(a, b.transpose(1, 2), ranks)
