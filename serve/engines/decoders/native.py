"""Decoders on the compiled step of `native_ops.decoder`: CPU alone, weights as they are stored.

Whole prompts, prompts in chunks and single tokens give the same bits, and what else is in a step
changes none of them: so one seed gives one text, alone or among others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from native_ops.decoder import decoder_step
from native_ops.decoder_plan import (
    DecoderLayout,
    DecoderShape,
    DecoderWeights,
    Part,
    rotary_tables,
    slot_elements,
)
from native_ops.gguf import GgufFile
from native_ops.gguf_architectures import model_config
from native_ops.packed_linear import FORMATS, pack_weight, packed_bytes
from serve.engines.decoders.base import SlotDecoder
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.kv_cache import SlotPages, positions_within
from serve.engines.decoders.native_adapters import NativeAdapter, read_adapter
from serve.engines.decoders.native_model import NativeModel, native_model
from serve.engines.decoders.native_sources import FolderSource, GgufSource, WeightSource
from serve.engines.decoders.projections import Quantization
from serve.engines.decoders.ragged import Index, Run
from serve.engines.threads import number_of_threads
from serve.engines.weights import LoadCounter, Weights
from serve.generation.protocol import Step

_PIECE_NUMBERS = 1 << 21
"""Numbers of a matrix that are packed at a time."""

_PLANES = 2
"""Bytes of an activation that meets quantised weights: with one, 3 % of the likeliest tokens differ
from float32's; with two, 0.2 % or less (benchmarks/LOG.md)."""

_GROUP = 16
"""Rows that the packed form keeps together."""

_OUTER = ("embedding", "head", "positions")


class NativeCache:
    """Keys and values of all slots in float16, as `native_ops.decoder_plan` lays them out.

    Args:
        shape: Of the model.
        slots: Sequences at once.
        limit_bytes: Most bytes over all slots.

    Attributes:
        shape: Of the model, its context cut to what one slot may come to hold.

    Raises:
        SettingsError: the limit does not even hold one position a slot.
    """

    def __init__(self, shape: DecoderShape, slots: int, limit_bytes: int) -> None:
        half = torch.float16.itemsize
        self._position_bytes = 2 * shape.layers * shape.kv_heads * shape.head_width * half
        self.context = shape.context
        self.tokens = positions_within(limit_bytes, self._position_bytes, slots, shape.context)
        self.held: Index = np.zeros(slots, np.int64)
        self.shape = replace(shape, context=min(shape.context, self.tokens))
        self._pages = SlotPages(slots, slot_elements(self.shape) * half)
        self.memory = self._pages.tensor(torch.float16)

    @property
    def limit_bytes(self) -> int:
        """The most that it may grow to."""
        return self.tokens * self._position_bytes

    def free(self, slot: int) -> None:
        """Empty a slot and give its memory back."""
        if self.held[slot]:
            self._pages.give_back(slot)
        self.held[slot] = 0


class NativeDecoder(SlotDecoder[NativeCache]):
    """A `Decoder` of the Llama family or GPT-2.

    Args:
        model: What is computed.
        source: Of its weights; read here, piece by piece.
        slots: Sequences at once.
        kv_bytes: Most bytes of the KV cache.

    Raises:
        ModelLoadError: the weights do not fit the model.
        SettingsError: a KV cache too small for the slots.
    """

    def __init__(
        self, model: NativeModel, source: WeightSource, *, slots: int, kv_bytes: int
    ) -> None:
        # first of all, for it checks the sizes: a damaged file must not decide what is allocated
        formats = {
            name: FORMATS[source.format(rows, model.size(name), inner=name not in _OUTER)]
            for name, rows in model.matrices.items()
        }
        cache = NativeCache(model.shape, slots, kv_bytes)
        super().__init__(cache, model.shape.vocabulary, torch.device("cpu"))
        self._precision = source.precision
        self._model = model
        with torch.inference_mode():
            layout, self._weights = load_weights(replace(model, shape=cache.shape), source, formats)
        self._plan = layout.plan(slots)

    @property
    def precision(self) -> str:
        return self._precision

    def read_adapter(self, folder: Path) -> NativeAdapter:
        """See `AdaptedDecoder`. In bfloat16, but for a model in float32."""
        dtype = torch.float32 if self._precision == "float32" else torch.bfloat16
        # hundreds of small copies, at which threads would wait for each other
        with number_of_threads(1), torch.inference_mode():
            return read_adapter(self._model, folder, dtype)

    def _compute(self, step: Step, runs: Sequence[Run], rows: int) -> torch.Tensor:
        # the operator takes slots in any order; views cost nothing where the types fit
        tokens, positions, slots, logit_rows = (
            torch.from_numpy(np.asarray(values, np.int32))
            for values in (step.tokens, step.positions, step.slots, step.logit_rows)
        )
        logits: torch.Tensor = decoder_step(
            self._weights,
            self._plan,
            self._cache.memory,
            tokens,
            positions,
            slots,
            logit_rows,
            self.vocabulary,
            [adapter.packed.weights for adapter in step.adapters],
            [adapter.packed.plan for adapter in step.adapters],
            torch.from_numpy(np.asarray(step.row_adapters, np.int32)),
        )
        return logits

    def _weight_bytes(self) -> int:
        return self._weights.nbytes + self._plan.nbytes

    def _drop(self) -> None:
        self._weights = self._plan = torch.empty(0)


def native_from_folder(
    folder: GenerationFolder,
    dtype: torch.dtype | None,
    quantization: Quantization | None,
    *,
    slots: int,
    kv_bytes: int,
    counter: LoadCounter,
) -> NativeDecoder | None:
    """A decoder of safetensors files; None where the compiled step cannot compute the model.

    Args:
        folder: The model's folder.
        dtype: Of matrices that are not quantised; None: as stored, and bfloat16 for float32.
        quantization: Of the matrices in layers.
        slots: Sequences at once.
        kv_bytes: Most bytes of the KV cache.
        counter: Told of the weights that are taken.

    Raises:
        ModelLoadError, SettingsError: as `NativeDecoder`.
    """
    model = native_model(folder)
    if model is None or (quantization is not None and not _can_quantize(model)):
        return None
    dtype = dtype or _stored_dtype(folder, model.anchor)
    device = torch.device("cpu")
    with ExitStack() as stack:
        weights, head = (
            stack.enter_context(Weights(folder.tensors, anchor, dtype, device, counter))
            for anchor in (model.anchor, model.anchor if model.tied else "lm_head.weight")
        )
        source = FolderSource(weights, head, dtype, quantization)
        return NativeDecoder(model, source, slots=slots, kv_bytes=kv_bytes)


def native_from_gguf(
    path: Path,
    *,
    slots: int,
    kv_bytes: int,
    progress: Callable[[float], None] | None = None,
) -> NativeDecoder | None:
    """A decoder of a GGUF file; None where the compiled step cannot compute the model.

    Args:
        path: The file.
        slots: Sequences at once.
        kv_bytes: Most bytes of the KV cache.
        progress: Told the fraction that was taken, rising to 1.

    Raises:
        ModelLoadError: the file is damaged, or its tensors do not fit its metadata.
        SettingsError: a KV cache too small for the slots.
    """
    file = GgufFile.read(path)
    counter = LoadCounter(sum(tensor.nbytes for tensor in file.tensors.values()), progress)
    model = native_model(GenerationFolder.of_config(path, model_config(file)))
    if model is None:
        return None
    # blocks are only moved: hundreds of small steps, at which threads would wait for each other
    with number_of_threads(1):
        decoder = NativeDecoder(model, GgufSource(file, counter), slots=slots, kv_bytes=kv_bytes)
    counter.finish()
    return decoder


def _can_quantize(model: NativeModel) -> bool:
    """Whether blocks of 32 fill the rows of every matrix in a layer."""
    return not any(model.size(name)[1] % 32 for name in model.matrices if name not in _OUTER)


def _stored_dtype(folder: GenerationFolder, anchor: str) -> torch.dtype:
    stored = next((t.dtype for n, t in folder.tensors.items() if n.endswith(anchor)), "F32")
    return torch.float16 if stored == "F16" else torch.bfloat16


def load_weights(
    model: NativeModel, source: WeightSource, formats: Mapping[str, int]
) -> tuple[DecoderLayout, torch.Tensor]:
    """The layout of a model's parts, and the one tensor that holds them."""
    layout = DecoderLayout(model.shape)
    for name, number in formats.items():
        layout.matrix(name, number, packed_bytes(number, *model.size(name)), _PLANES)
    if model.tied:
        layout.tie("head", "embedding")
    tables = _rotary_tables(model)
    for name in (*model.vectors, *tables):
        layout.vector(name)
    weights = DecoderWeights(layout)
    for name in model.matrices:
        _pack(model, name, layout.parts[name], source, weights)
    for name, rows in model.vectors.items():
        weights.write(name, source.vector(rows, layout.parts[name].nbytes // 4))
    for name, table in tables.items():
        weights.write(name, table)
    return layout, weights.bytes


def _pack(
    model: NativeModel, name: str, part: Part, source: WeightSource, weights: DecoderWeights
) -> None:
    """Fill a matrix piece by piece, so that a large one does not stand in memory twice."""
    size = model.size(name)
    step = max(_PIECE_NUMBERS // size[1] // _GROUP, 1) * _GROUP
    for start in range(0, size[0], step):
        stop = min(start + step, size[0])
        blocks = source.rows(model.matrices[name], size, start, stop)
        packed = pack_weight(blocks, part.format, stop - start, size[1])
        at = part.offset + packed_bytes(part.format, start, size[1])
        weights.bytes[at : at + packed.numel()].copy_(packed)


def _rotary_tables(model: NativeModel) -> dict[str, torch.Tensor]:
    if model.frequencies is None:
        return {}
    cosine, sine = rotary_tables(model.frequencies, model.shape.context)
    return {"rotary.cosine": cosine, "rotary.sine": sine}
