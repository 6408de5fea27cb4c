"""What all decoders of this process share: checks, slots, threads, properties.

The network is a subclass's. N tokens of a step, R rows of logits, V vocabulary.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F

from ironcliw.errors import RequestError, UnavailableError
from serve.engines.decoders.kv_cache import KvCache, KvShape
from serve.engines.decoders.projections import MakeLinear, Quantization, padded_rows
from serve.engines.decoders.ragged import Index, Plan, Run, StepLimits, by_slot
from serve.engines.protocol import Tokens
from serve.engines.threads import SMALL_STEP_TOKENS, ThreadChoice, number_of_threads
from serve.engines.weights import LoadCounter
from serve.generation.protocol import Logits, Step


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a decoder computes.

    Attributes:
        device: Of weights and cache.
        dtype: Of the matrix products and of the cache.
        quantization: Of the weights inside the layers.
        slots: Sequences at once.
        kv_bytes: Most bytes of the KV cache.
        counter: Told of the weights that are taken.
    """

    device: torch.device
    dtype: torch.dtype
    quantization: Quantization | None
    slots: int
    kv_bytes: int
    counter: LoadCounter

    @property
    def make_linear(self) -> MakeLinear:
        """Of the layers' projections."""
        return MakeLinear(self.quantization)


class SlotCache(Protocol):
    """What a decoder's cache says of itself, whatever its layout."""

    held: Index
    """int64 [slots], positions that each slot holds."""

    @property
    def tokens(self) -> int:
        """Positions that can be held at once."""
        ...

    @property
    def context(self) -> int:
        """Most positions of one slot."""
        ...

    @property
    def limit_bytes(self) -> int:
        """The most that it may grow to."""
        ...

    def free(self, slot: int) -> None:
        """Empty a slot."""
        ...


CacheT = TypeVar("CacheT", bound=SlotCache)


class SlotDecoder(ABC, Generic[CacheT]):
    """A `Decoder`; see there. Subclasses load weights and compute checked steps.

    Args:
        cache: Of all slots, empty.
        vocabulary: V.
        device: Of weights and cache.
    """

    def __init__(self, cache: CacheT, vocabulary: int, device: torch.device) -> None:
        self._device = device
        self._cache = cache
        self._limits = StepLimits(vocabulary, cache.context, len(cache.held), cache.tokens)
        self._closed = False
        # by size: what many tokens gain from threads, few may lose
        self._threads: dict[int, ThreadChoice] = {}

    @property
    def vocabulary(self) -> int:
        return self._limits.vocabulary

    @property
    def context(self) -> int:
        return self._limits.context

    @property
    def slots(self) -> int:
        return self._limits.slots

    @property
    def kv_tokens(self) -> int:
        return self._limits.kv_tokens

    @property
    def start_token(self) -> int | None:
        return None

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    @abstractmethod
    def precision(self) -> str: ...

    @property
    def resident_bytes(self) -> int:
        return 0 if self._closed else self._weight_bytes() + self._cache.limit_bytes

    @property
    def kv_bytes(self) -> int:
        return 0 if self._closed else self._cache.limit_bytes

    def begin(self, slot: int, source: Tokens) -> None:
        raise RequestError(
            f"slot {slot}: a causal model has no source to begin with ({len(source)} tokens were "
            "given); feed the prompt through forward"
        )

    def forward(self, step: Step) -> Logits:
        self._check_open()
        held = self._cache.held
        runs = self._limits.check(step, held)
        logits = self._timed(step, runs)
        for run in runs:
            held[run.slot] = run.length
        result: Logits = logits.numpy()
        return result

    def _timed(self, step: Step, runs: Sequence[Run]) -> torch.Tensor:
        """Compute a step with the number of threads that is fastest for its size now."""
        rows = self._rows(len(step.tokens))
        if self._device.type != "cpu":
            return self._compute(step, runs, rows)
        choice = self._thread_choice(rows)
        count = choice.pick()
        started = time.perf_counter()
        if count == torch.get_num_threads():
            logits = self._compute(step, runs, rows)
        else:
            with number_of_threads(count):
                logits = self._compute(step, runs, rows)
        choice.learn(time.perf_counter() - started)
        return logits

    def _thread_choice(self, rows: int) -> ThreadChoice:
        size = rows.bit_length()
        if size not in self._threads:
            most = torch.get_num_threads()
            self._threads[size] = ThreadChoice(most, 1 if rows <= SMALL_STEP_TOKENS else most)
        return self._threads[size]

    def free(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise RequestError(f"slot {slot} does not exist; slots go from 0 to {self.slots - 1}")
        if not self._closed:
            self._cache.free(slot)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._drop()
        del self._cache

    @abstractmethod
    def _compute(self, step: Step, runs: Sequence[Run], rows: int) -> torch.Tensor:
        """Logits float32 [R, V] on the CPU, computed with so many rows, N of them real."""

    @abstractmethod
    def _weight_bytes(self) -> int:
        """Bytes of weights and prepared buffers."""

    @abstractmethod
    def _drop(self) -> None:
        """Let go of the weights."""

    def _rows(self, tokens: int) -> int:
        """Rows that so many tokens are computed with."""
        return tokens

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("this decoder was closed; load the model again")


class TorchDecoder(SlotDecoder[KvCache]):
    """A decoder of torch's own operators, on any device.

    Args:
        placement: Where and how to compute.
        vocabulary: V.
        context: Most positions of a sequence.
        shape: Of a position in the KV cache.
    """

    def __init__(self, placement: Placement, vocabulary: int, context: int, shape: KvShape) -> None:
        self._dtype = placement.dtype
        self._quantization = placement.quantization
        cache = KvCache(
            shape,
            slots=placement.slots,
            context=context,
            limit_bytes=placement.kv_bytes,
            dtype=placement.dtype,
            device=placement.device,
        )
        super().__init__(cache, vocabulary, placement.device)

    @property
    def precision(self) -> str:
        return self._quantization or str(self._dtype).removeprefix("torch.")

    def _compute(self, step: Step, runs: Sequence[Run], rows: int) -> torch.Tensor:
        with torch.inference_mode():
            return self._run(by_slot(step, runs), rows).float().cpu()

    @abstractmethod
    def _run(self, plan: Plan, rows: int) -> torch.Tensor:
        """Logits [R, V] of a plan, computed with so many rows, N of them real."""

    def _rows(self, tokens: int) -> int:
        return padded_rows(tokens, self._device)

    def _padded(self, values: Index, rows: int) -> torch.Tensor:
        """On the device, with zeros up to so many rows."""
        tensor = torch.from_numpy(values)
        if len(values) < rows:
            tensor = F.pad(tensor, (0, rows - len(values)))
        return tensor.to(self._device)

    def _wanted(self, hidden: torch.Tensor, plan: Plan) -> torch.Tensor:
        """[rows, D] to [R, D], the tokens whose logits are asked for."""
        if len(plan.rows) == len(hidden) and (plan.rows[1:] > plan.rows[:-1]).all():
            return hidden
        return hidden[torch.from_numpy(plan.rows).to(self._device)]
