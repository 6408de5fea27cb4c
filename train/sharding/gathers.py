"""The all-gather of a layer's weights over gloo, each part received where it belongs.

gloo's own gathers into a second copy, which one of its threads makes: of embedding and head, the
largest tensors, another whole one at the moment when a worker holds the most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather


class InPlaceAllGather(AllGather):
    """Gathers the equally long parts of all workers, on the processor."""

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """Memory for all parts."""
        return torch.empty(math.prod(int(each) for each in size), dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: torch.distributed.ProcessGroup,
        async_op: bool = False,
    ) -> None:
        """Fill `output_tensor` with the parts of all workers, in the order of their ranks.

        Args:
            output_tensor: [workers * N].
            input_tensor: [N], this worker's part: FSDP2 has put it into its place of the output.
            group: The workers.
            async_op: Is not done: when this returns all parts are there.
        """
        parts = output_tensor.view(group.size(), -1)
        others = [rank for rank in range(group.size()) if rank != group.rank()]
        works = [torch.distributed.irecv(parts[o], group=group, group_src=o) for o in others]
        works += [torch.distributed.isend(input_tensor, group=group, group_dst=o) for o in others]
        for work in works:
            assert work is not None, "every worker is one of its own group"
            work.wait()
