"""Reading a worker's rows of a model's weights from safetensors files, and nothing else of them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ironcliw.errors import ModelLoadError
from train.sharding.layout import rows_of

_STEP_BYTES = 64 << 20
"""Read at a time: more than one row, and little beside a layer."""


class WeightFiles:
    """The safetensors files of a folder, by the names of their tensors.

    Args:
        name: Of the model, for messages.
        folder: With the files.

    Raises:
        ModelLoadError: there are none, or one is damaged.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._files: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise ModelLoadError(
                f"model {name!r}: {folder} has no safetensors files, from which each worker could "
                "read its share; convert the model, or train it with sharding.mode none"
            )
        for path in paths:
            try:
                file: Any = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise ModelLoadError(
                    f"{path} is no whole safetensors file ({error}); fetch the model again"
                ) from error
            self._files.update(dict.fromkeys(file.keys(), file))

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, names: list[str]) -> None:
        """See that the files have all tensors of a model.

        Raises:
            ModelLoadError: they have not.
        """
        lacking = sorted(set(names) - self._files.keys())
        if lacking:
            raise ModelLoadError(
                f"model {self._name!r}: its files in {self._folder} lack {len(lacking)} tensors, "
                f"the first of them {lacking[0]!r}: they are named otherwise, which sharding does "
                "not translate; save the model with transformers again, or train it with "
                "sharding.mode none"
            )

    def read_rows(
        self, name: str, target: torch.Tensor, whole: torch.Size, rank: int, workers: int
    ) -> None:
        """Fill a worker's rows of a tensor.

        Args:
            name: Of the tensor.
            target: [rows, ...], in whatever dtype and wherever it is.
            whole: Shape of the whole tensor.
            rank: Of the worker.
            workers: How many there are.

        Raises:
            ModelLoadError: the file has another shape.
        """
        stored = self._files[name].get_slice(name)
        shape = torch.Size(stored.get_shape())
        if shape != whole:
            raise ModelLoadError(
                f"model {self._name!r}: {name!r} has the shape {[*shape]} in {self._folder}, and "
                f"config.json asks for {[*whole]}; fetch the model again"
            )
        rows = rows_of(rank, workers, whole[0])
        width = whole.numel() // max(1, whole[0])
        step = max(1, _STEP_BYTES // max(1, 4 * width))
        for first in range(rows.start, rows.stop, step):
            end = min(first + step, rows.stop)
            target[first - rows.start : end - rows.start].copy_(stored[first:end])
