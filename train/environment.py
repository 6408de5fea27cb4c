"""Variables for the processes of a run; they count from a process's start."""

from __future__ import annotations

from collections.abc import Mapping

# where Ray was connected to before, its actors are as they were
_RAY = {
    # how soon the controller sees a dead worker, and a draining node; 2 s and 5 s by default
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    # a machine in the cloud is there after minutes
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}
ALLOCATOR = "GLIBC_TUNABLES"
# A step's tensors come and go by the megabyte. By default each is given back to the system, which
# clears its pages anew: some 50,000 faults a step. Kept, and in large pages, there are none; other
# systems than Linux do not read this.
_KEPT = ":".join(
    (
        "glibc.malloc.mmap_threshold=4294967296",
        "glibc.malloc.trim_threshold=8589934592",
        "glibc.malloc.hugetlb=1",
    )
)
# Of a model in pieces a layer's weights come and go between activations that stay. Kept, each
# leaves a hole that is some bytes too small for the next one, and the heap grows with every layer.
_GIVEN_BACK = "glibc.malloc.mmap_threshold=262144:glibc.malloc.hugetlb=1"


def run_environment(given: Mapping[str, str], *, in_pieces: bool = False) -> dict[str, str]:
    """What a run adds to the environment of its processes.

    Args:
        given: The environment as it is; what it says of the allocator stays.
        in_pieces: Whether its model is spread over the workers.
    """
    return {**_RAY, ALLOCATOR: given.get(ALLOCATOR, _GIVEN_BACK if in_pieces else _KEPT)}
