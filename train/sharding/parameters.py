"""What a worker trains of a model in pieces: its rows of every trained parameter, as one vector.

It is to the loop what `train.loop.flat.FlatParameters` is. FSDP2 holds the rows in tensors of its
own, to which they are copied after a step: so the optimizer steps one vector, whose length is a
multiple of every processor's vector registers. Each number is then computed by the same
instructions, wherever the pieces are cut.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from train.loop.optimizer import PREFIX
from train.loop.reduce import Group
from train.sharding.layout import pieces_of, rows_of
from train.sharding.load import give_up_gathered
from train.sharding.sums import sums_of_rows

_MULTIPLE = 64
"""Of the vector's length: 64 float32 are four registers of AVX-512."""

_VALUES = "values"


class ShardedParameters:
    """Pieces of parameters, in one float32 vector [P].

    Args:
        named: Name and parameter (a DTensor) of each that is trained, in an order that is always
            the same; in pieces.
        root: FSDP2's outermost module.
        group: The workers.

    Attributes:
        values: [P].
        gradient: [P]; of the whole batch, after `collect`.
        pieces: Where each parameter's rows lie.
    """

    def __init__(
        self, named: Sequence[tuple[str, torch.nn.Parameter]], root: Any, group: Group
    ) -> None:
        self._root, self._group = root, group
        self._parameters: list[Any] = [parameter for _, parameter in named]
        self._shapes = [(name, tuple(parameter.shape)) for name, parameter in named]
        self.pieces = pieces_of(self._shapes, group.rank, group.size)
        self._used = sum(piece.size for piece in self.pieces)
        length = -(-self._used // _MULTIPLE) * _MULTIPLE
        device = self._local(0).device if named else torch.device("cpu")
        self.values = torch.zeros(length, dtype=torch.float32, device=device)
        self.gradient = torch.zeros_like(self.values)
        for at, view in enumerate(self.views(self.values)):
            view.copy_(self._local(at))

    def __len__(self) -> int:
        return self.values.numel()

    def views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """This worker's rows of each parameter, in the order of the pieces, as views of a vector
        [P]."""
        return [
            vector[piece.first : piece.first + piece.size].view(piece.local_shape)
            for piece in self.pieces
        ]

    def named(self, vector: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The same by name, of the values or of another vector."""
        views = self.views(self.values if vector is None else vector)
        return {piece.name: view for piece, view in zip(self.pieces, views, strict=True)}

    def layout(self) -> str:
        """A digest of names and whole shapes, whatever the number of workers is."""
        words = "\n".join(f"{name} {shape}" for name, shape in self._shapes)
        return hashlib.sha256(words.encode()).hexdigest()

    def collect(self) -> None:
        """Take the gradient that the backward passes of a step have left."""
        for view, parameter in zip(self.views(self.gradient), self._parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad.to_local())
            parameter.grad = None

    def clear(self) -> None:
        """Forget the gradient of a round: the sum of all rounds is kept elsewhere."""
        for parameter in self._parameters:
            parameter.grad = None

    def publish(self) -> None:
        """Let the model compute with the values."""
        give_up_gathered(self._root)  # it would be computed with as it was
        with torch.no_grad():
            for at, view in enumerate(self.views(self.values)):
                self._local(at).copy_(view)

    def snapshot(self, optimizer: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This worker's rows of values and moments, in a file of its own.

        Args:
            optimizer: Its tensors. Those as long as the vector are cut as it is; the others are
                the same on all workers, and the first one's are saved.
        """
        vectors = {_VALUES: self.values}
        found: dict[str, torch.Tensor] = {}
        for name, tensor in optimizer.items():
            if tensor.dim() and tensor.numel() == len(self):
                vectors[name.removeprefix(PREFIX)] = tensor
            elif self._group.rank == 0:
                found[name] = tensor
        group = f"shard_{self._group.rank}_of_{self._group.size}"
        for kind, vector in vectors.items():
            for name, view in self.named(vector).items():
                found[f"{group}/{kind}/{name}"] = view
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Put the values of a checkpoint back, of which this worker's rows were read.

        Args:
            tensors: By kind and name, `values/...`, `exp_avg/...`; others as the optimizer names
                them.

        Returns:
            What the optimizer takes: its vectors are as long as this one.
        """
        found: dict[str, torch.Tensor] = {}
        vectors: dict[str, torch.Tensor] = {_VALUES: self.values}
        for key, tensor in tensors.items():
            if key.startswith(PREFIX):
                found[key] = tensor
                continue
            kind, _, name = key.partition("/")
            vector = vectors.setdefault(kind, torch.zeros_like(self.values))
            self.named(vector)[name].copy_(tensor)
        self.publish()
        del vectors[_VALUES]
        return found | {PREFIX + kind: vector for kind, vector in vectors.items()}

    def norm(self) -> float:
        """Of the whole gradient; the same bits on every worker, and for any number of them."""
        squares = [
            sums_of_rows(view.reshape(len(view), -1).double().square())
            for view in self.views(self.gradient)
            if len(view)
        ]
        lengths = [
            [len(rows_of(rank, self._group.size, shape[0])) for _, shape in self._shapes]
            for rank in range(self._group.size)
        ]
        mine = self.values.new_zeros(max(map(sum, lengths)), dtype=torch.float64)
        if squares:
            mine[: sum(lengths[self._group.rank])] = torch.cat(squares)
        found = [
            torch.split(part[: sum(counts)], counts)
            for part, counts in zip(self._group.gather(mine), lengths, strict=True)
        ]
        # as one worker would have them: all rows of the first parameter, then of the next
        rows = [part[at] for at in range(len(self._shapes)) for part in found]
        return math.sqrt(float(sums_of_rows(torch.cat(rows)[None])))

    def _local(self, at: int) -> torch.Tensor:
        rows: torch.Tensor = self._parameters[at].detach().to_local()
        return rows
