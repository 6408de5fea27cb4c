"""Who uses the workers: jobs and deployments, by the actors and the tasks on each node.

An actor's node and job are known. Of a plain task Ray keeps no place without its task events, which
are switched off here for what they cost: a node that works and has no actor counts for the jobs
that have tasks running, in equal parts. With one such job, the common case, that is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.control.snapshot import Node

WORKERS_KEY = "ironcliw-workers"
"""Metadata of a job: so many workers are kept while it runs, whether it uses them or not."""
_SUBMISSION_KEY = "job_submission_id"  # ray/dashboard/modules/job/common.py
_REPLICA = "SERVE_REPLICA::"  # ray/serve/_private/common.py: SERVE_REPLICA::app#deployment#id


@dataclass(frozen=True, slots=True)
class LivingActor:
    """An actor that is alive; ids in hexadecimal."""

    node_id: str
    job_id: str
    name: str


@dataclass(frozen=True, slots=True)
class LivingJob:
    """A driver that has not ended."""

    job_id: str
    is_running_tasks: bool
    metadata: Mapping[str, str]

    @property
    def user(self) -> str:
        """As the ledger names it: by the submission where there was one."""
        return f"job/{self.metadata.get(_SUBMISSION_KEY) or self.job_id}"


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What of the cluster's work is where.

    Attributes:
        actors: All that live.
        jobs: All that have not ended.
    """

    actors: Sequence[LivingActor] = ()
    jobs: Sequence[LivingJob] = ()

    @property
    def wanted(self) -> int:
        """How many workers running jobs want kept: they share them, so the most of one."""
        return max((_count(job.metadata.get(WORKERS_KEY, "")) for job in self.jobs), default=0)

    def users(self, nodes: Iterable[Node]) -> dict[str, list[str]]:
        """Who uses each machine, sorted; one that nobody uses is not in it."""
        jobs = {job.job_id: job.user for job in self.jobs}
        with_tasks = {job.user for job in self.jobs if job.is_running_tasks}
        found: dict[str, list[str]] = {}
        for node in nodes:
            here = {
                _user(actor, jobs) for actor in self.actors if actor.node_id == node.node_id
            } or (with_tasks if node.idle_seconds == 0 else set())
            if here:
                found[node.name] = sorted(here)
        return found


def bookings(users: Mapping[str, Sequence[str]], seconds: float) -> list[tuple[str, str, float]]:
    """(machine, user, seconds) for the ledger: users of one machine share its time."""
    return [
        (name, user, seconds / len(here)) for name, here in sorted(users.items()) for user in here
    ]


def _user(actor: LivingActor, jobs: Mapping[str, str]) -> str:
    if actor.name.startswith(_REPLICA):
        parts = actor.name.removeprefix(_REPLICA).split("#")
        return f"deployment/{parts[1] if len(parts) > 2 else parts[0]}"
    # a detached actor outlives its job, and is its job's all the same
    return jobs.get(actor.job_id, f"job/{actor.job_id}")


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 0
