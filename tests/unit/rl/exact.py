"""The optimum of a small day, by OR-Tools' CP-SAT: what the search and the bound are held against.

The day must be without losses, stock-outs, crowding of cores and change of the user's memory, and
its times whole seconds. Decided are the place of each step (home, or one of the machines), its
start, and from when to when each machine is paid for. A machine's first step of a kind loads its
model; the solver may choose which step that is, so what it finds is at most the true optimum, and
at least it but for those seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from rl.guardrails import RESERVE_GB
from rl.ledger import LEAST_SECONDS
from rl.work import KINDS, Day, Step

MICRO = 1_000_000  # USD in whole numbers
HOUR = 3600.0


@dataclass
class _Machine:
    used: Any
    bought: Any
    seconds: Any
    ready: Any
    firsts: list[Any]
    intervals: list[Any]
    demands: list[int]
    ends: list[tuple[Any, Any]]


def optimum(day: Day, horizon: int, seconds: float = 20.0) -> float:
    """USD of the day's best schedule.

    Args:
        day: As described above.
        horizon: Seconds after midnight by which all has ended.
        seconds: That the solver may take.
    """
    model = cp_model.CpModel()
    machines = [_machine(model, day, horizon) for _ in range(day.regime.spot.machines)]
    at_home: list[tuple[Any, int]] = []
    costs: list[Any] = []
    for workflow in day.workflows:
        ends: list[Any] = []
        for step in workflow.steps:
            start = model.new_int_var(round(workflow.arrival), horizon, "start")
            end = model.new_int_var(0, horizon, "end")
            for parent in step.parents:
                model.add(start >= ends[parent])
            places = [_at_home(model, day, step, start, end, at_home)]
            if not step.private:
                places += [_on(model, day, step, start, end, one) for one in machines]
            model.add_exactly_one(places)
            ends.append(end)
        costs.append(_price(model, day, workflow.number, ends, horizon))
    room = day.regime.home.memory_gb - day.user_gb[0][1] - RESERVE_GB
    model.add_cumulative([one for one, _ in at_home], [need for _, need in at_home], _gb(room))
    for machine in machines:
        _close(model, day, machine)
        price = round(MICRO * day.regime.spot.dollars_per_hour / HOUR)
        costs.append(price * machine.seconds)
    model.minimize(sum(costs))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    assert status == cp_model.OPTIMAL, solver.status_name(status)
    return float(solver.objective_value) / MICRO


def _gb(memory_gb: float) -> int:
    return round(1000 * memory_gb)


def _machine(model: Any, day: Day, horizon: int) -> _Machine:
    used = model.new_bool_var("used")
    bought = model.new_int_var(0, horizon, "bought")
    seconds = model.new_int_var(0, horizon, "seconds")
    model.add(seconds == 0).only_enforce_if(~used)
    model.add(seconds >= int(LEAST_SECONDS)).only_enforce_if(used)
    return _Machine(used, bought, seconds, bought + round(day.boot_median), [], [], [], [])


def _at_home(
    model: Any, day: Day, step: Step, start: Any, end: Any, at_home: list[tuple[Any, int]]
) -> Any:
    here = model.new_bool_var("home")
    room = day.regime.home.memory_gb - day.user_gb[0][1] - RESERVE_GB
    if step.memory_gb > room:
        model.add(here == 0)
        return here
    size = round(step.home_seconds)
    interval = model.new_optional_interval_var(start, size, end, here, "home")
    at_home.append((interval, _gb(step.memory_gb)))
    return here


def _on(model: Any, day: Day, step: Step, start: Any, end: Any, machine: _Machine) -> Any:
    here, first = model.new_bool_var("here"), model.new_bool_var("first")
    model.add_implication(first, here)
    model.add_implication(here, machine.used)
    cold = round(KINDS[step.kind].cold_cloud)
    size = round(step.cloud_seconds + step.transfer_mb / day.megabytes_per_second) + cold * first
    machine.intervals.append(model.new_optional_interval_var(start, size, end, here, "machine"))
    machine.demands.append(_gb(step.memory_gb))
    machine.firsts.append(first)
    machine.ends.append((here, end))
    model.add(start >= machine.ready).only_enforce_if(here)
    return here


def _close(model: Any, day: Day, machine: _Machine) -> None:
    model.add_cumulative(machine.intervals, machine.demands, _gb(day.regime.spot.memory_gb))
    model.add(sum(machine.firsts) == 1).only_enforce_if(machine.used)
    for here, end in machine.ends:
        model.add(machine.bought + machine.seconds >= end).only_enforce_if(here)


def _price(model: Any, day: Day, number: int, ends: list[Any], horizon: int) -> Any:
    workflow, costs = day.workflows[number], day.regime.costs
    end = model.new_int_var(0, horizon, "workflow")
    model.add_max_equality(end, ends)
    missed = model.new_bool_var("missed")
    model.add(end <= int(workflow.deadline)).only_enforce_if(~missed)
    second = round(MICRO * costs.hour_of_priority * workflow.priority / HOUR)
    charge = round(MICRO * costs.miss * workflow.priority)
    return second * (end - round(workflow.arrival)) + charge * missed
