"""What a run of training loses where its worker or its machine is lost, and when it goes on.

Through Ray Train, on nodes that are raylets of this machine. A blow comes at a random moment of a
step. Steps are lost that the run had told of, and that its next attempt does again.
"""

from __future__ import annotations

import importlib
import logging
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.generation_work import MODEL
from benchmarks.harness import BenchmarkError, Goal, Options, Row, Samples
from benchmarks.training_cluster import play
from benchmarks.training_story import Blow, Done, Plan, Story, message_pattern
from benchmarks.training_work import SEED
from train.assembly import LOADED, RESUMED
from train.data.plan import StepPlan
from train.data.tokenized import TokenizedData
from train.worker import BEGINS

logger = logging.getLogger(__name__)


THEME = "train"
EVERY = 3
RESTART_SECONDS = 20.0
SAVE_SECONDS = 2.0
PHASES = (
    ("detect", re.compile(r"^\[FailurePolicy\]")),
    ("reschedule", re.compile(r"^\[Worker Group Initialization\] Placement group ready")),
    ("start and import", message_pattern(BEGINS)),
    ("load the model", message_pattern(LOADED)),
    ("restore", message_pattern(RESUMED)),
)
"""What ends each phase, in Ray Train's log or in the workers'."""
_HEALTH = ("initial_delay_ms", "period_ms", "timeout_ms", "failure_threshold")


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a run came back from a blow.

    Attributes:
        blow: What was done.
        lost: Steps that had been done, and were done again.
        phases: Seconds of each; together from the blow to the start of the first new step.
        first_step: Seconds of that step.
    """

    blow: Done
    lost: int
    phases: Mapping[str, float]
    first_step: float

    @property
    def seconds(self) -> float:
        """From the blow to the start of the first new step."""
        return sum(self.phases.values())


def run(options: Options, data: TokenizedData) -> tuple[list[Row], list[str]]:
    """One worker, two workers, and a machine.

    Args:
        options: Of the theme.
        data: The rows, for the size of micro-batches.

    Raises:
        BenchmarkError: a run ended, or did not come back.
    """
    times = 1 if options.quick else 3
    rows: list[Row] = []
    for workers in (1, 2):
        logger.info("%d workers, %d kills and notices", workers, times)
        blows = [Blow("kill worker", 4), Blow("notice", 7)]
        plan = _plan(options, workers, 1, _repeated(blows, times, apart=6))
        rows += worker_rows(plan, play(options, plan), data)
    logger.info("a machine, %d kills", times)
    plan = _plan(options, 1, times + 1, _repeated([Blow("kill node", 4)], times, apart=4))
    rows += node_rows(recoveries(play(options, plan)))
    return rows, [_remark(times)]


def recoveries(story: Story) -> list[Recovery]:
    """How the run came back from each blow.

    Raises:
        BenchmarkError: it did not.
    """
    ends = [blow.at for blow in story.done[1:]] + [float("inf")]
    return [_recovery(story, blow, end) for blow, end in zip(story.done, ends, strict=True)]


def _recovery(story: Story, blow: Done, end: float) -> Recovery:
    at = blow.at
    phases: dict[str, float] = {}
    found: re.Match[str] | None = None
    for name, ending in PHASES:
        lines = [line for line in story.lines if at <= line.at < end and ending.match(line.text)]
        if not lines:
            raise BenchmarkError(f"the run did not come back from {blow}: no end of '{name}'")
        # several workers: the first attempt's last one
        line = _last_of_first(lines)
        phases[name], at = line.at - at, line.at
        found = ending.match(line.text)
    assert found is not None
    resumed = int(found[1])
    done = max(report.step for report in story.reports if report.at < at)
    first = next(report for report in story.reports if report.at > at and report.step > resumed)
    return Recovery(blow, max(0, done - resumed), phases, first.seconds)


def _last_of_first(lines: Sequence[Any], apart: float = 2.0) -> Any:
    """The last of the lines that were written within seconds of each other."""
    last = lines[0]
    for line in lines[1:]:
        if line.at - last.at > apart:
            break
        last = line
    return last


def worker_rows(plan: Plan, story: Story, data: TokenizedData) -> list[Row]:
    """Kills and notices of a run whose machines stay."""
    found = recoveries(story)
    killed = [each for each in found if each.blow.kind == "kill worker"]
    told = [each for each in found if each.blow.kind == "notice"]
    of = f"{plan.workers} worker{'s' if plan.workers > 1 else ''}"
    rows = [
        _lost(f"steps lost on a notice, {of}", told, 0),
        _lost(f"steps lost on SIGKILL, {of}, saved every {plan.every}", killed, plan.every),
        _notice_row(of, plan, story, data),
        Row(
            THEME,
            f"SIGKILL of a worker to the first new step, {of}",
            "s",
            Samples.of(each.seconds for each in killed),
            goal=Goal(RESTART_SECONDS, at_most=True),
            note=_split(killed),
        ),
    ]
    return rows


def node_rows(found: Sequence[Recovery]) -> list[Row]:
    """The loss of a machine without a notice."""
    goal = Goal(RESTART_SECONDS, at_most=True)
    detected = Samples.of(each.phases["detect"] for each in found)
    after = Samples.of(each.seconds - each.phases["detect"] for each in found)
    name = "SIGKILL of a node"
    return [
        _lost(f"steps lost on {name}, saved every {EVERY}", found, EVERY),
        Row(THEME, f"{name} until it is detected", "s", detected, note=health_check()),
        Row(THEME, f"{name}, from its detection to the first new step", "s", after, goal=goal),
        Row(
            THEME,
            f"{name} to the first new step",
            "s",
            Samples.of(each.seconds for each in found),
            note=_split(found),
        ),
    ]


def health_check() -> str:
    """How Ray's head looks for nodes that are gone, as it is set here."""
    # compiled, and not described to type checkers
    config: Any = importlib.import_module("ray._raylet").Config
    values = (f"{name}={getattr(config, f'health_check_{name}')()}" for name in _HEALTH)
    return "RAY_health_check_*: " + ", ".join(values)


def notice_bound(plan: Plan, seconds: float, data: TokenizedData) -> float:
    """In how many seconds a notice is to be followed by a durable checkpoint.

    Args:
        plan: Of the run; several workers may finish a step, one drops it after a micro-batch.
        seconds: Of a step.
        data: The rows.
    """
    if plan.workers > 1:
        return seconds + SAVE_SECONDS
    steps = StepPlan(
        data,
        seed=SEED,
        batch_size=plan.batch_size,
        micro_batch_tokens=plan.micro_batch_tokens,
    )
    shares = []
    for number in range(plan.steps):
        step = steps.step(number)
        longest = max(batch.tokens for shard in step.shards for batch in shard.micro_batches)
        shares.append(longest / step.tokens)
    return statistics.median(shares) * seconds + SAVE_SECONDS


def _notice_row(of: str, plan: Plan, story: Story, data: TokenizedData) -> Row:
    seconds = statistics.median(report.seconds for report in story.reports)
    bound = notice_bound(plan, seconds, data)
    taken = Samples.of(blow.saved_at - blow.at for blow in story.done if blow.saved_at is not None)
    unit = "an optimizer step" if plan.workers > 1 else "a micro-batch"
    note = f"{unit} takes {bound - SAVE_SECONDS:.2f} s here"
    goal = Goal(round(bound, 2), at_most=True)
    return Row(THEME, f"notice to durable checkpoint, {of}", "s", taken, goal=goal, note=note)


def _lost(name: str, found: Sequence[Recovery], most: int) -> Row:
    # the worst one: a promise holds each time
    worst = Samples.of([max(each.lost for each in found)])
    return Row(THEME, name, "steps", worst, goal=Goal(most, at_most=True), note="the most")


def _split(found: Sequence[Recovery]) -> str:
    """The median of each phase."""
    parts = [
        f"{name} {statistics.median(each.phases[name] for each in found):.1f}" for name, _ in PHASES
    ]
    first = statistics.median(each.first_step for each in found)
    return f"{', '.join(parts)}; then the step itself {first:.1f}"


def _plan(options: Options, workers: int, nodes: int, blows: tuple[Blow, ...]) -> Plan:
    steps = blows[-1].after + 3
    return Plan(
        MODEL,
        str(options.data.resolve()),
        workers,
        nodes,
        steps,
        EVERY,
        blows,
        batch_size=4 if options.quick else 8,
        seed=options.seed,
    )


def _repeated(blows: Sequence[Blow], times: int, *, apart: int) -> tuple[Blow, ...]:
    return tuple(
        Blow(blow.kind, blow.after + turn * apart) for turn in range(times) for blow in blows
    )


def _remark(times: int) -> str:
    return (
        f"Restarts: {times} of each, at random moments of a step, on a Ray whose nodes are raylets "
        "of this machine, through Ray Train with the intervals that `train` sets. A node is killed "
        "with all its processes at once; another one stands by. A notice is the file that a "
        "machine's agent writes; durable is when every worker has told the agent that it may go."
    )
