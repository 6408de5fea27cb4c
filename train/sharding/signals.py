"""What the workers tell each other beside tensors: four bytes a step, and how a loss is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from train.loop.reduce import PeerLostError

_SAVE = 1 << 16
"""Added by the first worker where it wants a save; below it, workers that are to leave count."""
_LOST = ("gloo", "connection", "timed out", "nccl", "socket", "recv", "peer")


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Within, a failure of torch's collectives is another worker's end.

    Raises:
        PeerLostError: that is what happened.
    """
    try:
        yield
    except PeerLostError:
        raise
    except RuntimeError as error:
        # gloo has no class of its own for it, and FSDP2 calls it deep within a pass
        lost = isinstance(error, torch.distributed.DistError) or any(
            word in str(error).lower() for word in _LOST
        )
        if not lost:
            raise
        raise PeerLostError(f"another worker is gone: {error}") from error


class Signals:
    """A notice and a wish to save, known to all workers at the same place.

    Args:
        noticed: Whether this worker's machine is about to end.
        device: Where collectives take their numbers from.

    Attributes:
        wants_save: Set by the first worker; all know it after the next `exchange`.
    """

    def __init__(self, noticed: Callable[[], bool], device: torch.device) -> None:
        self._noticed = noticed
        self._device = device if device.type == "cuda" else torch.device("cpu")
        self.wants_save = False

    def exchange(self) -> tuple[bool, bool]:
        """Whether any worker is to leave, and whether the first wants to save; one all-reduce of
        four bytes."""
        value = int(self._noticed()) + (_SAVE if self.wants_save else 0)
        self.wants_save = False
        total = self._sum(value)
        return bool(total % _SAVE), total >= _SAVE

    def notice(self) -> bool:
        """Whether any worker is to leave; the same on all of them."""
        return bool(self._sum(int(self._noticed())))

    def any(self, here: bool) -> bool:
        """Whether something is so on any worker."""
        return bool(self._sum(int(here)))

    def _sum(self, value: int) -> int:
        told = torch.tensor(value, dtype=torch.int32, device=self._device)
        torch.distributed.all_reduce(told)
        return int(told)
