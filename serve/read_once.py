"""What is read once a model in the process that has the requests: its tokenizer and its facts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ironcliw.errors import ModelLoadError

T = TypeVar("T")


class ReadOnce(Generic[T]):
    """Reads at the first request of each model; who comes meanwhile waits for the same reading.

    What failed is read again at the next request. Belongs to one event loop.

    Args:
        read: Reads what belongs to a model.
    """

    def __init__(self, read: Callable[[str], Coroutine[Any, Any, T]]) -> None:
        self._read = read
        self._tasks: dict[str, asyncio.Task[T]] = {}

    async def get(self, model_id: str) -> T:
        """What was read.

        Raises:
            IroncliwError: as of `read`.
        """
        task = self._tasks.get(model_id)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._tasks[model_id] = asyncio.create_task(self._read(model_id))
        # shielded: one client that leaves must not cancel it for the others
        return await asyncio.shield(task)

    def errors(self) -> dict[str, str]:
        """Why the last reading failed, by model: the files are absent, damaged or unsupported."""
        ended = {
            model_id: task.exception()
            for model_id, task in self._tasks.items()
            if task.done() and not task.cancelled()
        }
        return {
            model_id: error.message
            for model_id, error in ended.items()
            if isinstance(error, ModelLoadError)
        }

    def forget(self, model_id: str) -> None:
        """Read again at the next request: the model may come back with other files.

        What belongs to its adapters was made of the same.
        """
        for known in [one for one in self._tasks if one.partition(":")[0] == model_id]:
            del self._tasks[known]
        self._tasks.pop(model_id, None)
