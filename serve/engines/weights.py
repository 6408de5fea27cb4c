"""Weights from safetensors files to the device, one tensor at a time, never two whole copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ironcliw.errors import ModelLoadError
from ironcliw.safetensors_files import StoredTensor

_RENAMED = {".weight": ".gamma", ".bias": ".beta"}
"""Layer norms of checkpoints that once came from TensorFlow."""


class LoadCounter:
    """Reports how much of a model's weights has been taken, in steps of a percent.

    Args:
        total: Bytes of all its weights, as stored.
        report: Told the fraction, rising, 1 once at the end; None counts for nobody.
    """

    def __init__(self, total: int, report: Callable[[float], None] | None) -> None:
        self._total = max(total, 1)
        self._report = report
        self._taken = 0
        self._reported = 0.0

    def add(self, nbytes: int) -> None:
        """These were taken."""
        self._taken += nbytes
        fraction = self._taken / self._total
        # the last word is finish()'s: the engine is not there yet
        if self._reported + 0.01 <= fraction < 1:
            self._tell(fraction)

    def finish(self) -> None:
        """The engine is there; some architectures leave weights of the file unused."""
        self._tell(1.0)

    def _tell(self, fraction: float) -> None:
        self._reported = fraction
        if self._report is not None:
            self._report(fraction)


class Weights:
    """Open weight files; a context manager, since the files stay mapped until it ends.

    Args:
        tensors: What the files hold, as read by `stored_tensors`.
        anchor: A tensor that must exist; what stands before it in its name is the prefix of all.
        dtype: The element type to convert to.
        device: Where to put what is taken.
        counter: Told the stored bytes of each tensor that is taken.
    """

    def __init__(
        self,
        tensors: Mapping[str, StoredTensor],
        anchor: str,
        dtype: torch.dtype,
        device: torch.device,
        counter: LoadCounter | None = None,
    ) -> None:
        self._counter = counter
        self._tensors = tensors
        self._dtype = dtype
        self._device = device
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        found = [name for name in tensors if name == anchor or name.endswith("." + anchor)]
        if len(found) != 1:
            raise ModelLoadError(
                f"{self._where()} has {len(found)} tensors named {anchor!r} and should have one; "
                "its config.json is of another architecture"
            )
        self._prefix = found[0].removesuffix(anchor)

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._files.clear()
        self._stack.close()

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor that owns its memory, converted and moved.

        Args:
            name: Below the prefix.
            shape: What it must be; -1 where any size will do.
            dtype: Instead of the usual one.
        """
        stored_name, stored = self._checked(name, shape)
        try:
            tensor: torch.Tensor = self._open(stored).get_tensor(stored_name)
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(f"{stored.file} cannot be read ({error})") from error
        # copy=True: the file's mapping must not outlive this object
        taken = tensor.to(self._device, dtype or self._dtype, copy=True)
        if self._counter is not None:
            self._counter.add(stored.nbytes)
        return taken

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name below the prefix."""
        return self._prefix + name in self._tensors

    def check(self, name: str, *shape: int) -> None:
        """Refuse a tensor that `take` would refuse, without reading it."""
        self._checked(name, shape)

    def _checked(self, name: str, shape: tuple[int, ...]) -> tuple[str, StoredTensor]:
        stored_name, stored = self._find(name)
        if len(stored.shape) != len(shape) or any(
            want not in (-1, have) for want, have in zip(shape, stored.shape, strict=True)
        ):
            raise ModelLoadError(
                f"{stored.file}: tensor {stored_name!r} has shape {list(stored.shape)} and "
                f"config.json asks for {list(shape)}; the two are of different models"
            )
        return stored_name, stored

    def _find(self, name: str) -> tuple[str, StoredTensor]:
        full = self._prefix + name
        for ending, old in _RENAMED.items():
            if full not in self._tensors and full.endswith(ending):
                full = full.removesuffix(ending) + old
        stored = self._tensors.get(full) or self._tensors.get(self._prefix + name)
        if stored is None:
            raise ModelLoadError(
                f"{self._where()} lacks the tensor {self._prefix + name!r} that its config.json "
                "calls for; download the model again"
            )
        return full, stored

    def _open(self, stored: StoredTensor) -> Any:
        key = str(stored.file)
        if key not in self._files:
            self._files[key] = self._stack.enter_context(safe_open(key, framework="pt"))
        return self._files[key]

    def _where(self) -> str:
        return str(next(iter(self._tensors.values())).file) if self._tensors else "the model"
