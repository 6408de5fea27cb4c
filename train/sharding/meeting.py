"""The workers of a sharded run as the threads meet that write checkpoints."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import torch

from train.loop.reduce import PeerLostError

_WAIT = datetime.timedelta(minutes=30)
"""For the slowest worker's file: storage may be slow, and a lost worker is seen at once."""


class GlooMeeting:
    """Through a process group of its own, so that training's collectives go on beside it."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        self._group = torch.distributed.new_group(backend="gloo", timeout=_WAIT)

    def exchange(self, value: Any) -> Sequence[Any]:
        found: list[Any] = [None] * self.size
        try:
            torch.distributed.all_gather_object(found, value, group=self._group)
        except RuntimeError as error:
            raise PeerLostError(f"another worker is gone: {error}") from error
        return found
