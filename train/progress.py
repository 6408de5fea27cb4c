"""How far a run is, told by its first worker to whoever waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from train.loop.run import StepReport

_LOOK_SECONDS = 0.25


class Progress:
    """The workers' end: a handle that can be pickled."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def send(self, report: StepReport) -> None:
        """Does not wait, and does not fail where nobody listens any more."""
        self._mailbox.put.remote(report)


class _Mailbox:
    """An actor beside whoever waits."""

    def __init__(self) -> None:
        self._reports: list[StepReport] = []

    def put(self, report: StepReport) -> None:
        self._reports.append(report)

    def take(self) -> list[StepReport]:
        taken, self._reports = self._reports, []
        return taken


@contextlib.contextmanager
def watch(report: Callable[[StepReport], None]) -> Iterator[Progress]:
    """Calls `report` for every step, in a thread, until the block ends."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # on a worker's machine it would be lost with it, and no step would be told of after that
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind: Any = ray.remote(num_cpus=0)(_Mailbox)
    mailbox = kind.options(scheduling_strategy=here).remote()
    ended = threading.Event()

    def deliver() -> None:
        while True:
            last = ended.wait(_LOOK_SECONDS)
            with contextlib.suppress(ray.exceptions.RayError):
                for one in ray.get(mailbox.take.remote()):
                    report(one)
            if last:
                return

    thread = threading.Thread(target=deliver, name="train-progress", daemon=True)
    thread.start()
    try:
        yield Progress(mailbox)
    finally:
        ended.set()
        thread.join(timeout=10)
        ray.kill(mailbox)
