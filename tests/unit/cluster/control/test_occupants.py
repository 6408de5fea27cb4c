"""Who uses a machine, by what Ray says of actors, jobs and nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.control.occupants import LivingActor, LivingJob, Occupancy, bookings
from cluster.control.snapshot import Node

TRAINING = LivingJob("01", True, {"job_submission_id": "raysubmit_1"})
SILENT = LivingJob("02", False, {})


def node(name: str, idle: float = 0.0) -> Node:
    return Node(f"{name}-node", name, False, idle)


def actor(name: str, job: str, title: str = "") -> LivingActor:
    return LivingActor(f"{name}-node", job, title)


def test_actors_count_for_their_job() -> None:
    work = Occupancy([actor("a", "01"), actor("a", "02"), actor("b", "09")], [TRAINING, SILENT])
    nodes = [node("a"), node("b"), node("c", idle=5.0)]
    assert work.users(nodes) == {"a": ["job/02", "job/raysubmit_1"], "b": ["job/09"]}


@pytest.mark.parametrize(
    ("title", "user"),
    [
        ("SERVE_REPLICA::ironcliw#engine-spot#x1", "deployment/engine-spot"),
        ("SERVE_REPLICA::engine-spot#x1", "deployment/engine-spot"),
        ("replica", "job/02"),
    ],
)
def test_replicas_count_for_their_deployment(title: str, user: str) -> None:
    assert Occupancy([actor("a", "02", title)], [SILENT]).users([node("a")]) == {"a": [user]}


def test_a_node_that_works_without_actors_counts_for_jobs_with_tasks() -> None:
    other = LivingJob("03", True, {})
    work = Occupancy([], [TRAINING, SILENT, other])
    assert work.users([node("a"), node("b", idle=1.0)]) == {"a": ["job/03", "job/raysubmit_1"]}
    assert Occupancy([], [SILENT]).users([node("a")]) == {}


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [([], 0), (["2", "1"], 2), (["many"], 0), (["-1"], 0), ([""], 0), (["\u0662"], 0)],
)
def test_the_workers_that_running_jobs_keep(texts: list[str], wanted: int) -> None:
    jobs = [LivingJob(str(at), False, {"ironcliw-workers": text}) for at, text in enumerate(texts)]
    assert Occupancy([], jobs).wanted == wanted


@given(
    st.dictionaries(st.text(min_size=1), st.lists(st.text(), min_size=1, unique=True)),
    st.floats(0, 100),
)
def test_no_second_is_booked_twice_or_lost(users: dict[str, list[str]], seconds: float) -> None:
    booked = bookings(users, seconds)
    assert {(name, user) for name, user, _ in booked} == {
        (name, user) for name, here in users.items() for user in here
    }
    for name in users:
        total = sum(used for machine, _, used in booked if machine == name)
        assert total == pytest.approx(seconds)
