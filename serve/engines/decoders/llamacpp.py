"""llama.cpp as a `Decoder`: GGUF files in their own quantisation, on Metal where that exists.

Uses the low-level interface of llama-cpp-python (extra `llama`), so that our scheduler batches
continuously above it: one `llama_decode` for the tokens of all slots, one KV cache for all of them
(`kv_unified`), of which each slot takes what it needs.

Not covered: sequence-to-sequence models, and models whose state cannot be cut at a position.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import (
    ContextLengthError,
    IroncliwError,
    ModelLoadError,
    RequestError,
    UnsupportedError,
)
from native_ops.gguf import GgufFile
from serve.engines.protocol import Tokens
from serve.generation.protocol import Logits, Step

logger = logging.getLogger(__name__)

_BATCH_TOKENS = 2048
"""Most tokens of one `llama_decode`; it aborts the process when there are more."""
_KV_STEP = 256
"""llama.cpp rounds the positions of its cache up to a multiple of this."""
_KV_ELEMENT_BYTES = 2  # float16, llama.cpp's default
_MAX_SLOTS = 256  # LLAMA_MAX_SEQ
_LEVEL_DEBUG, _LEVEL_ERROR, _LEVEL_CONTINUED = 1, 4, 5  # enum ggml_log_level in ggml.h
_ALL = -1
_NO_KV_ROOM = 1  # answer of llama_decode


class LlamaCppDecoder:
    """A causal model in a GGUF file, computed by llama.cpp.

    Args:
        path: The GGUF file.
        slots: Sequences that can be held at once, 1 to 256.
        kv_bytes: Most bytes of the KV cache; at least 256 positions are given in any case.
        context: Most positions of a sequence; None: what the model was trained for.
        threads: Compute threads; None: one for each core that this process may use.
        device: `auto`, `cpu`, `mps` or `metal` (Apple), `cuda`: whatever the package was built for.
        progress: Told the fraction that is loaded, rising to 1.

    Raises:
        UnsupportedError: the extra is not installed.
        ModelLoadError: the file is absent, not GGUF, damaged, or of a
            kind that llama.cpp cannot generate with, or there is no such device.
    """

    start_token: int | None = None

    def __init__(
        self,
        path: Path,
        *,
        slots: int = 8,
        kv_bytes: int = 512 << 20,
        context: int | None = None,
        threads: int | None = None,
        device: str = "auto",
        progress: Callable[[float], None] | None = None,
    ) -> None:
        if not 1 <= slots <= _MAX_SLOTS:
            raise ModelLoadError(f"llama.cpp holds 1 to {_MAX_SLOTS} sequences, not {slots}")
        file = _checked_file(path)
        self._llama: Any = _package()
        self.device = _device(device, bool(self._llama.llama_supports_gpu_offload()))
        self.precision, self.slots = file.kind, slots
        self._model = self._load_model(path, progress)
        self._context: Any = None
        vocabulary = self._llama.llama_model_get_vocab(self._model)
        self.vocabulary = int(self._llama.llama_vocab_n_tokens(vocabulary))
        trained = int(self._llama.llama_model_n_ctx_train(self._model))
        self.context = min(context or trained, trained)
        position_bytes = _position_bytes(file)
        wanted = min(kv_bytes // position_bytes, -(-slots * self.context // _KV_STEP) * _KV_STEP)
        self.kv_tokens = max(wanted // _KV_STEP * _KV_STEP, _KV_STEP)
        try:
            self._context = self._make_context(threads or _cores(), path)
        except ModelLoadError:
            self.close()
            raise
        self._memory = self._llama.llama_get_memory(self._context)
        self._lengths = [0] * slots
        weights = int(self._llama.llama_model_size(self._model))
        self.kv_bytes = self.kv_tokens * position_bytes
        self.resident_bytes = weights + self.kv_bytes

    def begin(self, slot: int, source: Tokens) -> None:
        """Nothing: a causal model."""

    def forward(self, step: Step) -> Logits:
        """Run a step; float32 [R, V].

        Raises:
            RequestError: a token id is outside the vocabulary.
            ContextLengthError: a position is outside the context.
            IroncliwError: llama.cpp could not compute it.
        """
        self._check(step)
        self._cut(step)
        logits = np.empty((len(step.logit_rows), self.vocabulary), np.float32)
        for start in range(0, len(step.tokens), _BATCH_TOKENS):
            self._decode(step, start, min(start + _BATCH_TOKENS, len(step.tokens)), logits)
        return logits

    def free(self, slot: int) -> None:
        """Forget a slot's sequence; its positions can be used by others."""
        self._llama.llama_memory_seq_rm(self._memory, slot, _ALL, _ALL)
        self._lengths[slot] = 0

    def close(self) -> None:
        """Free the weights; a second call does nothing."""
        context, self._context = self._context, None
        model, self._model = self._model, None
        if context is not None:
            self._llama.llama_free(context)
        if model is not None:
            self._llama.llama_model_free(model)

    def _load_model(self, path: Path, progress: Callable[[float], None] | None) -> Any:
        parameters = self._llama.llama_model_default_params()
        parameters.n_gpu_layers = 0 if self.device == "cpu" else _ALL
        # llama.cpp's AMX kernels crash the process (ggml-org/llama.cpp#20824, seen with Q4_1)
        system = self._llama.llama_print_system_info()
        parameters.use_extra_bufts = b"AMX_INT8 = 1" not in system

        def loaded(fraction: float, _: object) -> bool:
            if progress is not None:
                progress(fraction)
            return True

        parameters.progress_callback = self._llama.llama_progress_callback(loaded)
        model = self._llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not model:
            raise ModelLoadError(f"llama.cpp cannot load {path}: {_last_errors()}")
        if self._llama.llama_model_has_encoder(model):
            self._llama.llama_model_free(model)
            raise ModelLoadError(
                f"{path} is a sequence-to-sequence model, which is not served through llama.cpp; "
                "use a Hugging Face folder of it with the engine torch"
            )
        return model

    def _make_context(self, threads: int, path: Path) -> Any:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx, parameters.kv_unified = self.kv_tokens, True
        parameters.n_seq_max = self.slots
        parameters.n_batch = _BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.offload_kqv = parameters.op_offload = self.device != "cpu"
        context = self._llama.llama_init_from_model(self._model, parameters)
        if not context:
            raise ModelLoadError(
                f"llama.cpp has no room for {self.kv_tokens} positions of {path} "
                f"({_last_errors()}); lower serve.kv_cache_bytes"
            )
        return context

    def _check(self, step: Step) -> None:
        # seen as unsigned, a negative id is a huge one
        if len(step.tokens) and step.tokens.view(np.uint32).max() >= self.vocabulary:
            bad = step.tokens[step.tokens.view(np.uint32) >= self.vocabulary][0]
            raise RequestError(
                f"token id {bad} is outside this model's vocabulary, 0 to {self.vocabulary - 1}"
            )
        if len(step.positions) and step.positions.max() >= self.context:
            raise ContextLengthError(
                f"position {step.positions.max()} is outside this model's context of "
                f"{self.context} tokens; shorten the prompt or ask for fewer tokens"
            )

    def _cut(self, step: Step) -> None:
        """Forget what the slots hold from their first new position on."""
        slots, starts = np.unique(step.slots, return_index=True)
        for slot, position in zip(slots.tolist(), step.positions[starts].tolist(), strict=True):
            assert position <= self._lengths[slot], "a sequence has no gaps"
            if position == self._lengths[slot]:
                continue
            if not self._llama.llama_memory_seq_rm(self._memory, slot, position, _ALL):
                raise IroncliwError(
                    f"this model's state cannot be cut at position {position}; read the text again "
                    "from position 0"
                )

    def _decode(self, step: Step, start: int, end: int, logits: Logits) -> None:
        """Tokens start to end of a step; fills the rows of `logits` that are due in them."""
        count = end - start
        wanted = np.zeros(count, np.int8)
        first, last = np.searchsorted(step.logit_rows, (start, end))
        rows = step.logit_rows[first:last] - start
        wanted[rows] = 1
        tokens = np.ascontiguousarray(step.tokens[start:end], np.int32)
        positions = np.ascontiguousarray(step.positions[start:end], np.int32)
        slots = np.ascontiguousarray(step.slots[start:end], np.int32)
        # each token belongs to one sequence: a pointer a token, to its own number
        addresses = slots.ctypes.data + 4 * np.arange(count, dtype=np.uintp)
        ones = np.ones(count, np.int32)
        batch = self._llama.llama_batch(
            n_tokens=count,
            token=_pointer(tokens, ctypes.c_int32),
            pos=_pointer(positions, ctypes.c_int32),
            n_seq_id=_pointer(ones, ctypes.c_int32),
            seq_id=_pointer(addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(wanted, ctypes.c_int8),
        )
        answer = self._llama.llama_decode(self._context, batch)
        if answer == _NO_KV_ROOM:
            raise IroncliwError(f"{count} more tokens do not fit in {self.kv_tokens} positions")
        if answer:
            raise IroncliwError(f"llama.cpp failed with {answer}: {_last_errors()}")
        for slot, position in zip(slots.tolist(), positions.tolist(), strict=True):
            self._lengths[slot] = position + 1
        for index, row in enumerate(rows.tolist(), int(first)):
            values = self._llama.llama_get_logits_ith(self._context, row)
            logits[index] = np.ctypeslib.as_array(values, (self.vocabulary,))


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    """A typed pointer to an array's first element, which keeps the array alive."""
    return array.ctypes.data_as(ctypes.POINTER(kind))


def _checked_file(path: Path) -> GgufFile:
    """The file as our own reader sees it: llama.cpp aborts on some damaged files."""
    if path.is_dir():
        raise ModelLoadError(
            f"{path} is a folder; llama.cpp reads GGUF files alone. Name the file, or set "
            "serve.generation_engine to torch"
        )
    return GgufFile.read(path)


def _position_bytes(file: GgufFile) -> int:
    """Bytes that one position takes in the KV cache, over all layers."""
    kind = file.text("general.architecture")
    layers = file.integer(f"{kind}.block_count")
    heads = file.integer(f"{kind}.attention.head_count")
    stated = file.metadata.get(f"{kind}.attention.head_count_kv", heads)
    # one number, or one for each layer
    kv_heads = stated * layers if isinstance(stated, int) else int(np.sum(stated))
    width = file.integer(f"{kind}.embedding_length") // max(heads, 1)
    keys = file.integer(f"{kind}.attention.key_length", width)
    values = file.integer(f"{kind}.attention.value_length", width)
    return max(kv_heads * (keys + values) * _KV_ELEMENT_BYTES, 1)


def _device(device: str, offload: bool) -> str:
    accelerator = "metal" if sys.platform == "darwin" else "cuda:0"
    if device == "auto":
        return accelerator if offload else "cpu"
    if device == "cpu":
        return device
    names = {"metal", "mps"} if sys.platform == "darwin" else {"cuda", "cuda:0"}
    if not offload or device not in names:
        raise ModelLoadError(
            f"this build of llama.cpp cannot compute on {device!r}; use `auto` or `cpu`, or build "
            "llama-cpp-python with that backend"
        )
    return accelerator


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_loaded: tuple[Any, Any] | None = None
_errors: deque[str] = deque(maxlen=3)
_line: list[str] = []


def _package() -> Any:
    """The low-level module, its log turned to ours."""
    global _loaded
    if _loaded is None:
        try:
            module = importlib.import_module("llama_cpp.llama_cpp")
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                f"the engine llamacpp needs the package {error.name}; `pip install "
                "'ironcliw[llama]'` builds it (with Metal on a Mac), which takes some minutes"
            ) from error
        callback = module.llama_log_callback(_log)
        module.llama_log_set(callback, ctypes.c_void_p(0))
        module.llama_backend_init()
        # llama.cpp keeps a bare pointer to the callback: it must live as long as the process
        _loaded = module, callback
    return _loaded[0]


def _log(level: int, text: bytes, _: object) -> None:
    """Called by llama.cpp for each piece of a line; its own debug lines are for its authors."""
    if level == _LEVEL_DEBUG:
        return
    piece = text.decode("utf-8", "replace")
    if level == _LEVEL_ERROR:  # at once: not every one of them ends its line
        _errors.append(" ".join(piece.split()))
    if level != _LEVEL_CONTINUED:
        _line.clear()
    _line.append(piece)
    if piece.endswith("\n"):
        logger.debug("llama.cpp: %s", "".join(_line).strip())
        _line.clear()


def _last_errors() -> str:
    """What llama.cpp last complained of, once."""
    found = "; ".join(_errors) or "it gave no reason"
    _errors.clear()
    return found
