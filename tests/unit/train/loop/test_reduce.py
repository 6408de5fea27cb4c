"""The same bits whatever the number of workers, and a notice that all of them learn of."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.train.tiny import make_data, make_job, make_model
from train.data.plan import shards_of
from train.job import Job
from train.loop.reduce import Alone, PeerLostError, ProcessGroup, Reducer, StepSum
from train.run_files import LOG
from train.worker import work

SHARDS = 5
HELD_OUT = make_data(9, seed=5)


class Meeting:
    """Where the workers of a test, each a thread, put their vectors."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: list[torch.Tensor] = [torch.empty(0)] * size
        self.barrier = threading.Barrier(size, timeout=60)


class Member:
    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting, self.rank, self.size = meeting, rank, meeting.size

    def gather(self, part: torch.Tensor) -> Sequence[torch.Tensor]:
        self._meeting.parts[self.rank] = part.clone()
        self._meeting.barrier.wait()
        found = list(self._meeting.parts)
        self._meeting.barrier.wait()
        return found

    def numbers(self, mine: Sequence[float]) -> list[list[float]]:
        raise AssertionError("a Reducer gathers vectors")

    def agree(self, step: int) -> None:
        raise AssertionError("a Reducer has no step")


def shard_gradient(step: int, shard: int) -> torch.Tensor:
    """Numbers of very different sizes: another order of adding gives other bits."""
    made = torch.Generator().manual_seed(100 * step + shard)
    return torch.randn(257, generator=made) * 10.0 ** (3 * shard - 6)


def reduced(workers: int, noticed: int | None = None) -> list[list[tuple[torch.Tensor, StepSum]]]:
    """For each worker, gradient and sum of two steps."""
    meeting = Meeting(workers)
    found: list[list[tuple[torch.Tensor, StepSum]]] = [[] for _ in range(workers)]

    def run(rank: int) -> None:
        group = Alone() if workers == 1 else Member(meeting, rank)
        gradient = torch.zeros(257)
        reducer = Reducer(group, SHARDS, gradient)
        for step in range(2):
            gradient.zero_()
            for shard in shards_of(rank, workers, SHARDS):
                gradient += shard_gradient(step, shard)
                reducer.keep(shard, 0.1 * (shard + 1) + step)
            total = reducer.sum(notice=rank == noticed and step == 1)
            found[rank].append((gradient.clone(), total))

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_every_number_of_workers_gives_the_bits_of_one() -> None:
    (expected,) = reduced(1)
    for workers in (2, 3, 5):
        for worker in reduced(workers):
            assert len(worker) == 2
            for (gradient, total), (wanted, wanted_total) in zip(worker, expected, strict=True):
                assert gradient.numpy().tobytes() == wanted.numpy().tobytes()
                assert total == wanted_total


def test_one_shard_of_each_worker_is_gathered_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = Member.gather

    def gather(self: Member, part: torch.Tensor) -> Sequence[torch.Tensor]:
        sizes.append(part.numel())
        return real(self, part)

    monkeypatch.setattr(Member, "gather", gather)
    reduced(2)
    # a gradient, a loss and the notice; three rounds in each of two steps of two workers
    assert sizes == [257 + 2] * 12


def test_shards_are_added_in_their_order() -> None:
    (steps,) = reduced(1)
    for step, (gradient, total) in enumerate(steps):
        wanted, loss = torch.zeros(257), 0.0
        for shard in range(SHARDS):
            wanted += shard_gradient(step, shard)
            loss += float(torch.tensor(0.1 * (shard + 1) + step))
        assert torch.equal(gradient, wanted)
        assert total == StepSum((loss,), notice=False)
        other = torch.zeros(257)
        for shard in reversed(range(SHARDS)):
            other += shard_gradient(step, shard)
        assert not torch.equal(gradient, other), "the numbers do not tell one order from another"


@pytest.mark.parametrize("noticed", [0, 1, 2])
def test_the_notice_of_any_worker_reaches_all_at_the_same_step(noticed: int) -> None:
    for worker in reduced(3, noticed):
        assert [total.notice for _, total in worker] == [False, True]


def test_a_shard_that_was_not_computed_leaves_nothing_of_the_step_before() -> None:
    gradient = torch.zeros(3)
    reducer = Reducer(Alone(), 2, gradient)
    for shard in range(2):
        gradient += 1.0
        reducer.keep(shard, 1.0)
    reducer.sum(notice=False)
    gradient.zero_()
    gradient += 1.0
    reducer.keep(0, 1.0)
    assert reducer.sum(notice=True) == StepSum((1.0,), notice=True)
    assert gradient.tolist() == [1.0] * 3


def test_each_shard_has_one_worker() -> None:
    for size in (1, 2, 3, 5):
        taken = [shard for rank in range(size) for shard in shards_of(rank, size, SHARDS)]
        assert sorted(taken) == list(range(SHARDS))


def test_a_gather_that_fails_is_a_lost_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather", fail)
    with pytest.raises(PeerLostError, match="Connection closed by peer"):
        ProcessGroup().gather(torch.zeros(1))


@pytest.mark.parametrize(("others", "fits"), [(7, True), (8, False)])
def test_workers_at_different_steps_start_again(
    others: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(parts: list[torch.Tensor], part: torch.Tensor) -> None:
        parts[0].copy_(part)
        parts[1].fill_(others)

    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "all_gather", gather)
    if fits:
        ProcessGroup().agree(7)
    else:
        with pytest.raises(PeerLostError, match=r"stand after steps \[7, 8\]"):
            ProcessGroup().agree(7)


def _worker(rank: int, job: Job, rendezvous: str) -> None:
    """One of two processes."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    work(job, ProcessGroup())
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    model = make_model(tmp_path / "model")
    changes = {"shards": 2, "lora_dropout": 0.1, "max_steps": 4}
    alone, together = (
        # three micro-batches to measure: one worker has one more than the other
        dataclasses.replace(make_job(tmp_path / name, model, **changes), held_out=HELD_OUT)
        for name in ("a", "b")
    )
    work(alone)
    torch.multiprocessing.spawn(  # type: ignore[no-untyped-call]
        _worker, (together, str(tmp_path / "rendezvous")), nprocs=2
    )
    files = [Path(job.uri) / "adapter" / "adapter_model.safetensors" for job in (alone, together)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert max(float(each.abs().max()) for each in load_file(files[0]).values()) > 0
    log = (Path(alone.uri) / LOG).read_bytes()
    assert log == (Path(together.uri) / LOG).read_bytes()
    assert sum("eval_loss" in json.loads(line) for line in log.splitlines()) == 2
