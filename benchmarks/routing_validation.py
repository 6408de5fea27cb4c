"""Does the simulator say what the real system does? A scripted run of it, against its simulation.

    python -m benchmarks.routing_validation [--minutes 30] [--seed 0]

A real head takes workflows of sleeping and computing steps over HTTP; short steps stay at home, two
at a time, long ones go to a machine of the test bed, which is bought and given back as it should
be. The run has two halves. The first is what times are fitted to; the second is simulated, and its
mean flow time, deadlines kept and machine hours must agree within 10 %. Everything comes from the
decision log and the events beside it. What is not shown: that Google's machines start as the test
bed's do, and anything about machines that are taken back.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import routing_replay as replay
from benchmarks.harness import BenchmarkError
from benchmarks.machine import ROOT, Machine, commit
from benchmarks.routing_bed import Bed, routed_head
from benchmarks.routing_work import HEAD_CPUS, Script, scripts
from ironcliw.client import Client
from ironcliw.errors import IroncliwError
from ironcliw.store import Store
from rl.fleet import IDLE_SECONDS
from rl.live.log import Log
from rl.live.stored_log import stored_log

GAP_SECONDS = 7.0
WITHIN = 0.10
_DRAIN_SECONDS = 240.0
_WORK = "benchmarks.routing_work"


@dataclass(frozen=True, slots=True)
class Half:
    """One half of the run: what was submitted, and the log of it."""

    scripts: list[Script]
    log: Log


def run_half(bed: Bed, planned: list[Script]) -> Half:
    """Submit, wait for the ends, and until the machines are gone; then read the log.

    Raises:
        BenchmarkError: a workflow failed or did not end.
    """
    begun, since = time.monotonic(), time.time()
    with Client(base_url=bed.url, timeout=60) as client:
        ids = []
        for one in planned:
            time.sleep(max(0.0, begun + one.at - time.monotonic()))
            ids.append(client.submit_workflow(one.definition()).id)
        for id_ in ids:
            done = client.wait_for_workflow(id_, seconds=_DRAIN_SECONDS)
            if done.status != "completed":
                raise BenchmarkError(f"workflow {id_} is {done.status}, not completed")
    bed.wait_until_empty(_DRAIN_SECONDS)
    time.sleep(2.0)  # the decision log is written once a second
    with Store(bed.store) as store, store.read() as connection:
        return Half(planned, stored_log(connection, since, time.time()))


def warm_up() -> list[Script]:
    """Before both halves: Ray's first processes at home take longer to start than all others."""
    some = scripts(0, 60.0, 1.0)
    short = [one for one in some if not any(piece.is_long for piece in one.pieces)]
    return [Script(0.5 * number, one.pieces) for number, one in enumerate(short[:6])]


def compare(first: Half, second: Half) -> tuple[replay.Fitted, replay.Figures, replay.Figures]:
    """What was fitted, what was measured in the second half, and what is simulated of it."""
    fitted = replay.fit(first.log)
    real = replay.measured(second.log, second.scripts)
    return fitted, real, replay.simulated(second.log, second.scripts, fitted)


def off(real: float, model: float) -> float:
    """Relative error of the simulation."""
    return abs(model - real) / real if real else abs(model)


def render(
    fitted: replay.Fitted, real: replay.Figures, model: replay.Figures, facts: dict[str, str]
) -> str:
    """The report."""
    rows = [
        ("mean flow time, s", real.flow, model.flow),
        ("deadlines kept", real.met, model.met),
        ("machine hours", real.machine_hours, model.machine_hours),
    ]
    lines = [
        "# The simulator against a run of the real system",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        (
            f"- fitted to the first half: {fitted.at_home:.2f} s beside a step's function at home, "
            f"{fitted.on_machine:.2f} s on a machine, {fitted.start:.1f} s to start one, "
            f"{fitted.idle:.0f} s until an idle one is gone"
        ),
        "",
        f"| second half, {real.workflows} workflows | real | simulated | off by | within 10 % |",
        "|---|---|---|---|---|",
    ]
    for name, own, other in rows:
        error = off(own, other)
        word = "yes" if error <= WITHIN else "**no**"
        lines.append(f"| {name} | {own:.3f} | {other:.3f} | {100 * error:.1f} % | {word} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Run, compare, write the report; 1 where a figure is off by more than 10 %."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing_validation")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the whole run; 5 at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the report; a file of results without it")
    given = parser.parse_args(argv)
    if not 5 <= given.minutes <= 240:
        parser.error(f"--minutes is {given.minutes:g}; give 5 to 240")
    # in each half the last workflows end, and the machines go
    seconds = 30.0 * given.minutes - 75.0
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="ironcliw-routing-") as folder:
            with routed_head(
                Path(folder),
                modules=[_WORK],
                policy=f"{_WORK}:ByLength",
                cpus=HEAD_CPUS,
                idle_seconds=IDLE_SECONDS,
            ) as bed:
                run_half(bed, warm_up())
                first = run_half(bed, scripts(2 * given.seed, seconds, GAP_SECONDS))
                second = run_half(bed, scripts(2 * given.seed + 1, seconds, GAP_SECONDS))
        fitted, real, model = compare(first, second)
    except IroncliwError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    machine, day = Machine.read(), datetime.date.today().isoformat()
    facts = {
        "CPU": f"{machine.cpu}, {machine.cores} cores",
        "commit": commit(),
        "date": day,
        "run": f"{(time.monotonic() - begun) / 60:.0f} min, seed {given.seed}, head included",
        "decisions in the log": str(len(second.log.decisions)),
    }
    report = render(fitted, real, model, facts)
    print(report)
    name = f"routing-validation_{machine.slug}_{day}.md"
    out = given.out or ROOT / "benchmarks" / "results" / name
    out.write_text(report, encoding="utf-8")
    pairs = [(real.flow, model.flow), (real.met, model.met)]
    pairs.append((real.machine_hours, model.machine_hours))
    return int(any(off(own, other) > WITHIN for own, other in pairs))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
