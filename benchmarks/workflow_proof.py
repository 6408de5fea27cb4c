"""Do workflows and durable messages survive whatever is killed? Counted against notes on the side.

    python -m benchmarks.workflow_proof [--slice]      (make prove-workflows)

A thousand workflows of five steps are submitted over HTTP to a head while its processes are killed
at random: those of steps, the control actor, hosts of agents, and all of the head at once, which is
then started again. Two of the five steps are not idempotent. Meanwhile durable messages go to an
agent. The moments are drawn from a seed; what they hit depends on the machine. What is not shown
here: machines in the cloud, PostgreSQL, and the loss of power (the disk's own memory).
"""

from __future__ import annotations

import argparse
import datetime

from benchmarks.harness import Goal, Options, Row, Samples
from benchmarks.machine import ROOT, Machine, commit
from benchmarks.workflow_proof_run import SEED, SLICE, WHOLE, Outcome, Plan, prove


def chaos_rows(options: Options) -> list[Row]:
    """Rows of theme `actors`."""
    plan = SLICE if options.quick else WHOLE
    outcome = prove(plan)
    verdict = outcome.verdict
    good = 100 * (verdict.finished + verdict.uncertain) / plan.workflows
    name = f"{plan.workflows:,} workflows of 5 steps under chaos for {plan.seconds:.0f} s"
    none = Goal(0.0, at_most=True)
    told = f"{verdict.uncertain} uncertain; killed: {_told(outcome.kills)}"
    messages = f"{verdict.messages:,} messages; {verdict.repeated} arrived twice"
    rows = [
        ("ended, or uncertain by the rule", "%", good, Goal(100.0), told),
        ("completed steps that ran again", "steps", len(verdict.rerun), none, ""),
        ("durable messages lost", "messages", len(verdict.lost), none, messages),
        ("what else must not be", "cases", len(verdict.wrong) + len(outcome.after.wrong), none, ""),
    ]
    return [
        Row("actors", f"{name}: {what}", unit, Samples.of([value]), {}, goal, note)
        for what, unit, value, goal, note in rows
    ]


def render(plan: Plan, outcome: Outcome) -> str:
    """The report."""
    verdict, machine = outcome.verdict, Machine.read()
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}"
    wrong = [*verdict.wrong, *verdict.rerun, *outcome.after.wrong, *outcome.after.rerun]
    counts = {
        "workflows of 5 steps": plan.workflows,
        "completed with the right output": verdict.finished,
        "uncertain by the rule, until their user decides": verdict.uncertain,
        "anything else": len(verdict.wrong),
        "completed steps that ran again": len(verdict.rerun),
        "durable messages that were taken": verdict.messages,
        "of them lost": len(verdict.lost),
        "of them arrived twice": verdict.repeated,
        "uncertain steps that were then retried or skipped": outcome.uncertain_steps,
        "workflows completed after that": outcome.after.finished,
    }
    lines = [
        "# Proof of durable workflows",
        "",
        f"{machine.cpu}; commit {commit()}; {now} UTC; seed {SEED}; {outcome.seconds:.0f} s.",
        "",
        f"Killed: {_told(outcome.kills)}, over {plan.seconds:.0f} s.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {count} |" for what, count in counts.items()),
        "",
        *(f"- {one}" for one in dict.fromkeys(wrong)),
        *(f"- message {number} was taken and never arrived" for number in verdict.lost),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _told(kills: dict[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in sorted(kills.items()))


def main() -> int:
    """Print the report, and keep it unless it is of a slice; 1 where anything is not as it must."""
    parser = argparse.ArgumentParser(description="Kills whatever runs workflows, and counts.")
    parser.add_argument("--slice", action="store_true", help="two minutes of it; nothing is kept")
    is_slice = parser.parse_args().slice
    plan = SLICE if is_slice else WHOLE
    outcome = prove(plan)
    report = render(plan, outcome)
    print(report)
    if not is_slice:
        day = datetime.date.today().isoformat()
        place = ROOT / "benchmarks" / "results" / f"workflows_{Machine.read().slug}_{day}.md"
        place.write_text(report, encoding="utf-8")
    return int(not outcome.is_good)


if __name__ == "__main__":
    raise SystemExit(main())
