"""The workers of a sharded run as the threads meet that write checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from train.loop.reduce import PeerLostError


class GlooMeeting:
    """Through a process group of its own, so that training's collectives go on beside it.

    Args:
        device: Of the run's collectives: they say how long a worker is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        world: Any = torch.distributed.group.WORLD
        timeout = world._get_backend(device).options._timeout
        self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    def exchange(self, value: Any) -> Sequence[Any]:
        found: list[Any] = [None] * self.size
        try:
            torch.distributed.all_gather_object(found, value, group=self._group)
        except RuntimeError as error:
            raise PeerLostError(f"another worker is gone: {error}") from error
        return found
