"""Reads the decision log, and what became of workflows and machines, from the state store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, select

from actors.tables import actors_decisions as decisions
from actors.tables import actors_workflow_events as events
from actors.tables import actors_workflows as workflows
from actors.workflow.definition import define
from actors.workflow.graph import Definition
from cluster.tables import cluster_events, cluster_vms
from ironcliw.errors import IroncliwError
from rl.live.log import Log, LoggedDecision, LoggedFleet, LoggedStep, LoggedWorkflow

_CHUNK = 500
_STEP_EVENTS = ("step_started", "step_completed", "step_failed", "step_timed_out")
_PAUSES = ("paused", "resumed")
_BYTES_A_GB = 1_000_000_000
_MICRO = 1_000_000


def stored_log(connection: Connection, since: float, until: float) -> Log:
    """What began between two times.

    Args:
        connection: To the state store.
        since: Unix seconds.
        until: Likewise; a machine that still runs is counted up to then.
    """
    where = (decisions.c.at >= since) & (decisions.c.at < until)
    rows = connection.execute(select(decisions).where(where).order_by(decisions.c.at))
    return Log(
        tuple(_decision(row._asdict()) for row in rows),
        tuple(_workflows(connection, since, until)),
        _fleet(connection, since, until),
    )


def _decision(row: Mapping[str, Any]) -> LoggedDecision:
    return LoggedDecision(
        id=row["id"],
        at=row["at"],
        policy=row["policy"],
        chosen=row["chosen"],
        propensity=row["propensity"],
        options=tuple(str(one["name"]) for one in row["options"]),
        mask=tuple(bool(one) for one in row["masks"]),
        workflow_id=row["workflow_id"],
        step=row["step"],
        attempt=row["attempt"],
        features=row["features"],
        outcome=row["outcome"],
        details=row["details"],
    )


def _workflows(connection: Connection, since: float, until: float) -> list[LoggedWorkflow]:
    table = workflows
    query = (
        select(
            table.c.id, table.c.name, table.c.created_at, table.c.finished_at, table.c.status,
            table.c.priority, table.c.deadline, table.c.definition,
        )
        .where(table.c.created_at >= since, table.c.created_at < until)
        .order_by(table.c.created_at)
    )  # fmt: skip
    rows = connection.execute(query).all()
    found = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        told = _events(connection, [row.id for row in chunk])
        for row in chunk:
            try:
                definition = _defined(_Source(row.definition))
            except IroncliwError:
                continue  # of a release whose definitions this one cannot read
            found.append(
                LoggedWorkflow(
                    id=row.id,
                    name=row.name,
                    created_at=row.created_at,
                    status=row.status,
                    priority=row.priority,
                    steps=tuple(_steps(definition, told.get(row.id, []))),
                    finished_at=row.finished_at,
                    deadline=row.deadline,
                    paused_seconds=_paused(told.get(row.id, []), row.finished_at or until),
                )
            )
    return found


class _Source:
    """A definition's JSON, hashed by its text."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self._text = repr(source)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source) and other._text == self._text


@lru_cache(maxsize=256)
def _defined(source: _Source) -> Definition:
    return define(source.source)


def _events(connection: Connection, ids: Sequence[str]) -> dict[str, list[Any]]:
    query = (
        select(events.c.workflow_id, events.c.at, events.c.kind, events.c.step, events.c.item,
               events.c.data)
        .where(events.c.workflow_id.in_(ids), events.c.kind.in_(_STEP_EVENTS + _PAUSES))
        .order_by(events.c.workflow_id, events.c.seq)
    )  # fmt: skip
    found: dict[str, list[Any]] = {}
    for row in connection.execute(query):
        found.setdefault(row.workflow_id, []).append(row)
    return found


def _paused(told: Sequence[Any], end: float) -> float:
    """Seconds that a workflow was held back, until its end."""
    seconds, since = 0.0, None
    for event in told:
        if event.kind == "paused" and since is None:
            since = event.at
        elif event.kind == "resumed" and since is not None:
            seconds, since = seconds + event.at - since, None
    return seconds if since is None else seconds + max(0.0, end - since)


def _steps(definition: Definition, told: Sequence[Any]) -> list[LoggedStep]:
    """Each step, or each item of a fan-out, that ran; one that never did is not there."""
    units: dict[tuple[int, int | None], dict[str, Any]] = {}
    for event in told:
        if event.step not in definition.by_name:
            continue
        unit = units.setdefault(
            (definition.by_name[event.step], event.item), {"losses": 0, "started_at": None}
        )
        _note(unit, event)
    found: list[LoggedStep] = []
    of_step: dict[int, list[int]] = {}
    for (index, item), unit in sorted(units.items(), key=lambda one: (one[0][0], one[0][1] or 0)):
        step = definition.steps[index]
        name = step.name if item is None else f"{step.name}[{item}]"
        needs = tuple(one for need in _present(definition, index, of_step) for one in need)
        of_step.setdefault(index, []).append(len(found))
        found.append(
            LoggedStep(
                name=name,
                kind=step.call.kind,
                target=step.call.target or step.call.kind,
                needs=needs,
                wanted=step.call.place,
                memory_gb=step.call.memory_gb,
                expected_seconds=step.call.expected_seconds,
                **unit,
            )
        )
    return found


def _present(
    definition: Definition, index: int, of_step: Mapping[int, list[int]]
) -> list[list[int]]:
    """Units of the steps that it needs; of what those need where they were skipped."""
    found = []
    for need in definition.steps[index].needs:
        if need in of_step:
            found.append(of_step[need])
        else:
            found += _present(definition, need, of_step)
    return found


def _note(unit: dict[str, Any], event: Any) -> None:
    data = event.data or {}
    if event.kind == "step_started":
        unit["started_at"] = event.at
    elif event.kind == "step_completed":
        unit["ended_at"] = event.at
        unit["seconds"] = data.get("seconds")
        unit["place"] = data.get("place") or "local"
        unit["node"] = data.get("node")
        peak = data.get("peak_bytes")
        unit["peak_gb"] = None if peak is None else peak / _BYTES_A_GB
    elif (data.get("error") or {}).get("kind") in ("lost", "moved"):
        unit["losses"] += 1


def _fleet(connection: Connection, since: float, until: float) -> LoggedFleet:
    begin, end = datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC)
    table = cluster_vms
    rows = connection.execute(
        select(table).where((table.c.ended_at.is_(None)) | (table.c.ended_at >= begin))
    ).all()
    intervals: list[tuple[float, float]] = []
    ordered: dict[str, datetime | None] = {}
    prices: list[float] = []
    for row in rows:
        ordered[row.name] = row.reserved_at
        start = row.started_at or row.created_at
        if start is None or start >= end:
            continue
        stop = min(row.stopped_at or row.ended_at or end, end)
        intervals.append((max(start, begin).timestamp(), max(stop, begin, start).timestamp()))
        if row.compute_rate is not None:
            prices.append((row.compute_rate + (row.address_rate or 0)) / _MICRO)
    query = select(cluster_events.c.at, cluster_events.c.kind, cluster_events.c.facts).where(
        cluster_events.c.at >= begin,
        cluster_events.c.at < end,
        cluster_events.c.kind.in_(("joined", "preempted")),
    )
    told = connection.execute(query).all()
    boots = [
        ((one.at - order).total_seconds(), one.at.timestamp())
        for one in told
        if one.kind == "joined" and (order := ordered.get(one.facts.get("name"))) is not None
    ]
    lost = tuple(one.at.timestamp() for one in told if one.kind == "preempted")
    return LoggedFleet(
        intervals=tuple(sorted(intervals)),
        losses=len(lost),
        boots=tuple(seconds for seconds, _ in boots),
        price_per_hour=sum(prices) / len(prices) if prices else 0.0,
        lost_at=lost,
        joined_at=tuple(at for _, at in boots),
    )
