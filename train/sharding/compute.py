"""Passes of a model in pieces: all workers make the same number of them, each over its own rows."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ironcliw.errors import UnsupportedError
from train.data.plan import PackedBatch
from train.loop.compute import Batch, Computer, Examined
from train.sharding.load import ShardedModel


class ShardedComputer(Computer):
    """As `Computer`; every call is a meeting of all workers, whatever its arguments.

    Args:
        model: In pieces.
    """

    def __init__(self, model: ShardedModel) -> None:
        super().__init__(model.module, model.device)
        self._root = model.root

    def logprobs(self, batch: Batch, attention: Mapping[str, Any]) -> torch.Tensor:
        found: torch.Tensor = self._root(functools.partial(super().logprobs, batch, attention))
        return found

    @torch.no_grad()
    def examine(
        self, batch: PackedBatch, *, best: bool = False, tree: Sequence[int] | None = None
    ) -> Examined:
        compute = functools.partial(super().examine, batch, best=best, tree=tree)
        found: Examined = self._root(compute)
        return found

    def backward(self, batch: PackedBatch) -> float:
        # without supervised tokens, too: the others wait for this worker's part
        loss = self.loss_sum(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @contextlib.contextmanager
    def without_adapters(self) -> Iterator[None]:
        if self._causal is self._model:
            raise UnsupportedError(
                "all weights are trained, so the model does not hold what it was; set "
                "preference.reference to precomputed, or use_lora to true"
            )
        # not peft's own context, which changes what wants a gradient: FSDP2 has made up its mind
        layers = [each for each in self._model.modules() if hasattr(each, "_disable_adapters")]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in layers:
                layer._disable_adapters = False
