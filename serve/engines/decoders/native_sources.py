"""Where the fused decoder step's weights come from: a Hugging Face folder, or a GGUF file as it is.

A source says in which format it will give each matrix (so that sizes are known before anything is
read) and then gives it piece by piece, as rows of that format's blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ironcliw.errors import ModelLoadError
from native_ops.gguf import GgufFile, GgufTensor
from native_ops.gguf_architectures import TargetTensor, model_tensors
from native_ops.gguf_conversion import row_order
from native_ops.gguf_types import BLOCK_TYPES
from native_ops.packed_linear import FORMATS, quantize_rows_int8, quantize_rows_q4
from serve.engines.decoders.native_model import Rows
from serve.engines.decoders.projections import Quantization
from serve.engines.weights import LoadCounter, Weights

logger = logging.getLogger(__name__)

_SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}
"""Where the halves stand in a block (ggml-common.h) that every number of it is multiplied with."""

_QUANTIZED: dict[Quantization, str] = {"8bit": "INT8", "4bit": "Q4_1"}


class WeightSource(Protocol):
    """Gives the tensors of a checkpoint."""

    @property
    def precision(self) -> str:
        """Of the matrices, as `Decoder.precision` says it."""
        ...

    def format(self, source: Rows, size: tuple[int, int], *, inner: bool) -> str:
        """A key of FORMATS: what a matrix will be given in.

        Args:
            source: Of the matrix.
            size: Its outputs and inputs.
            inner: Whether it is in a layer, and so may be quantised.

        Raises:
            ModelLoadError: it is absent or of another size.
        """
        ...

    def rows(self, source: Rows, size: tuple[int, int], start: int, stop: int) -> torch.Tensor:
        """Some rows of a matrix of the given size: uint8, blocks of its format."""
        ...

    def vector(self, source: Rows, size: int) -> torch.Tensor:
        """float32 [size]."""
        ...


class FolderSource:
    """Tensors of safetensors files, kept in their precision or quantised.

    Args:
        weights: The open files.
        head: The same for a head outside their prefix.
        dtype: Of matrices that are not quantised.
        quantization: Of the matrices in layers.
    """

    def __init__(
        self,
        weights: Weights,
        head: Weights,
        dtype: torch.dtype,
        quantization: Quantization | None,
    ) -> None:
        self._weights = weights
        self._head = head
        self._dtype = dtype
        self._quantization = quantization
        self._formats: dict[str, str] = {}
        self._last: tuple[str, torch.Tensor] = ("", torch.empty(0))

    @property
    def precision(self) -> str:
        return self._quantization or str(self._dtype).removeprefix("torch.")

    def format(self, source: Rows, size: tuple[int, int], *, inner: bool) -> str:
        self._of(source.name).check(source.name, *_stored_shape(source, size))
        floats = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[self._dtype]
        quantized = inner and self._quantization is not None
        chosen = _QUANTIZED[self._quantization] if quantized and self._quantization else floats
        self._formats[source.name] = chosen
        return chosen

    def rows(self, source: Rows, size: tuple[int, int], start: int, stop: int) -> torch.Tensor:
        matrix = self._tensor(source.name, *_stored_shape(source, size))
        matrix = matrix.t() if source.transposed else matrix
        piece = matrix[source.first + start : source.first + stop]
        chosen = self._formats[source.name]
        if chosen == "INT8":
            return quantize_rows_int8(piece.float())
        if chosen == "Q4_1":
            return quantize_rows_q4(piece.float())
        return piece.contiguous().view(torch.uint8).view(-1)

    def vector(self, source: Rows, size: int) -> torch.Tensor:
        vector = self._tensor(source.name, source.total or size, dtype=torch.float32)
        return vector[source.first : source.first + size]

    def _tensor(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        # several parts may share a tensor, and a large one is asked for piece by piece
        if self._last[0] != name:
            self._last = ("", torch.empty(0))
            quantized = self._formats.get(name) in _QUANTIZED.values()
            wanted = dtype or (torch.float32 if quantized else self._dtype)
            self._last = (name, self._of(name).take(name, *shape, dtype=wanted))
        return self._last[1]

    def _of(self, name: str) -> Weights:
        return self._head if name == "lm_head.weight" else self._weights


def _stored_shape(source: Rows, size: tuple[int, int]) -> tuple[int, int]:
    """Of the folder's tensor with a matrix of this size."""
    outputs, inputs = source.total or size[0], size[1]
    return (inputs, outputs) if source.transposed else (outputs, inputs)


class GgufSource:
    """Tensors of a GGUF file; blocks of a kind that has no kernel become int8 with a scale a row.

    Args:
        file: The file.
        counter: Told the stored bytes of what is taken.
    """

    def __init__(self, file: GgufFile, counter: LoadCounter) -> None:
        self._file = file
        self._counter = counter
        self._targets: Mapping[str, TargetTensor] = {
            target.name.removeprefix("transformer."): target for target in model_tensors(file)
        }
        self._last: tuple[str, npt.NDArray[np.intp]] = ("", np.empty(0, np.intp))
        others = {t.kind for t in file.tensors.values() if len(t.shape) > 1} - FORMATS.keys()
        if others:
            logger.warning(
                "%s: no kernel computes %s as stored; these tensors are taken as 8 bit numbers",
                file.path,
                ", ".join(sorted(others)),
            )

    @property
    def precision(self) -> str:
        kind = self._file.kind
        return kind if kind in FORMATS else f"{kind} as 8bit"

    def format(self, source: Rows, size: tuple[int, int], *, inner: bool) -> str:
        tensor = self._stored(source)
        self._check_shape(tensor, (source.total or size[0], size[1]))
        if tensor.kind in FORMATS:
            return tensor.kind
        return "F32" if size[1] % 32 else "INT8"

    def rows(self, source: Rows, size: tuple[int, int], start: int, stop: int) -> torch.Tensor:
        tensor = self._stored(source)
        order = self._order(source.name)[source.first + start : source.first + stop]
        self._counter.add(tensor.nbytes // tensor.rows * len(order))
        if tensor.kind not in FORMATS:
            values = self._file.dequantize(tensor.name, order)
            _check_finite(self._file, tensor, values)
            numbers = torch.from_numpy(values)
            return (
                numbers.view(torch.uint8).view(-1) if size[1] % 32 else quantize_rows_int8(numbers)
            )
        blocks = self._file.raw(tensor.name).reshape(tensor.rows, -1)[order]
        _check_blocks(self._file, tensor, blocks)
        return torch.from_numpy(blocks).view(-1)

    def vector(self, source: Rows, size: int) -> torch.Tensor:
        tensor = self._stored(source)
        self._check_shape(tensor, (source.total or size,))
        values = self._file.dequantize(tensor.name)[self._order(source.name)]
        _check_finite(self._file, tensor, values)
        self._counter.add(tensor.nbytes)
        return torch.from_numpy(values[source.first : source.first + size])

    def _stored(self, source: Rows) -> GgufTensor:
        return self._file.tensors[self._targets[source.name].source]

    def _order(self, name: str) -> npt.NDArray[np.intp]:
        """Which stored row each row is."""
        if self._last[0] != name:
            target = self._targets[name]
            # a folder's transposed tensors stand here as the step wants them
            plain = target.change != "unpermute"
            rows = self._file.tensors[target.source].shape[0]
            self._last = (name, np.arange(rows) if plain else row_order(self._file, target))
        return self._last[1]

    def _check_shape(self, tensor: GgufTensor, wanted: tuple[int, ...]) -> None:
        if tensor.shape != wanted:
            raise ModelLoadError(
                f"{self._file.path}: tensor {tensor.name!r} has shape {list(tensor.shape)} and the "
                f"metadata asks for {list(wanted)}; download it again"
            )


def _check_blocks(file: GgufFile, tensor: GgufTensor, blocks: npt.NDArray[np.uint8]) -> None:
    """Refuse numbers that are infinite or NaN: of quantised blocks, the scales."""
    if tensor.kind in _SCALES:
        size = next(block.nbytes for block in BLOCK_TYPES.values() if block.name == tensor.kind)
        each = blocks.reshape(-1, size)
        for at in _SCALES[tensor.kind]:
            halves = np.ascontiguousarray(each[:, at : at + 2]).view(np.uint16)
            _refuse(file, tensor, bool(((halves & 0x7C00) == 0x7C00).any()))
    elif tensor.kind == "BF16":
        _refuse(file, tensor, bool(((blocks.view(np.uint16) & 0x7F80) == 0x7F80).any()))
    else:
        _check_finite(file, tensor, blocks.view(np.float32 if tensor.kind == "F32" else np.float16))


def _check_finite(file: GgufFile, tensor: GgufTensor, values: npt.NDArray[np.floating]) -> None:
    _refuse(file, tensor, not bool(np.isfinite(values).all()))


def _refuse(file: GgufFile, tensor: GgufTensor, damaged: bool) -> None:
    if damaged:
        raise ModelLoadError(
            f"{file.path}: tensor {tensor.name!r} holds infinite numbers or NaN; download it again"
        )
