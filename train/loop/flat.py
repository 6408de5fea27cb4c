"""All trainable parameters as one vector, and their gradients as another.

What is reduced over shards, clipped, stepped and saved is then a tensor or two instead of hundreds;
the module's parameters and their `.grad` are views of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

WEIGHTS = "weights/"
"""Of the names of the values in a checkpoint."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a parameter lies in the vector."""

    name: str
    shape: tuple[int, ...]
    first: int

    @property
    def size(self) -> int:
        """Numbers of the parameter."""
        return int(torch.Size(self.shape).numel())


class FlatParameters:
    """Parameters of a module, moved into one float32 vector [P].

    Args:
        named: Name and parameter, in an order that is always the same; each is replaced in place.

    Attributes:
        values: [P]; the module's parameters are views of it.
        gradient: [P]; accumulated by backward passes.
        slots: Where each parameter lies.
    """

    def __init__(self, named: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        parameters = list(named)
        self.slots: list[Slot] = []
        total = 0
        for name, parameter in parameters:
            self.slots.append(Slot(name, tuple(parameter.shape), total))
            total += parameter.numel()
        device = parameters[0][1].device if parameters else torch.device("cpu")
        self.values = torch.empty(total, dtype=torch.float32, device=device)
        self.gradient = torch.zeros_like(self.values)
        for slot, (_, parameter) in zip(self.slots, parameters, strict=True):
            view = self._view(self.values, slot)
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self._view(self.gradient, slot)

    def __len__(self) -> int:
        return self.values.numel()

    def norm(self) -> float:
        """Of the gradient."""
        return float(torch.linalg.vector_norm(self.gradient))

    def snapshot(self, optimizer: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values, and the optimizer's tensors, by the names that a checkpoint has for them."""
        return {**{WEIGHTS + name: view for name, view in self.named().items()}, **optimizer}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Put the values of a snapshot back; what the optimizer takes of it."""
        for name, view in self.named().items():
            view.copy_(tensors[WEIGHTS + name])
        return tensors

    def named(self, vector: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Views by name, of the values or of another vector [P]."""
        vector = self.values if vector is None else vector
        return {slot.name: self._view(vector, slot) for slot in self.slots}

    def layout(self) -> str:
        """A digest of names, shapes and order: two runs with the same one can share a vector."""
        words = "\n".join(f"{slot.name} {slot.shape} {slot.first}" for slot in self.slots)
        return hashlib.sha256(words.encode()).hexdigest()

    @staticmethod
    def _view(vector: torch.Tensor, slot: Slot) -> torch.Tensor:
        return vector[slot.first : slot.first + slot.size].view(slot.shape)
