"""Does the simulator say what the real system does? A scripted run of it, against its simulation.

    python -m benchmarks.routing_validation [--minutes 30] [--seed 0]

A real head takes workflows of sleeping and computing steps over HTTP; short steps stay at home, two
at a time, long ones go to a machine of the test bed, which is bought and given back as it should
be. The run has two parts, or four from 16 minutes on. Times are fitted to the first and the third,
the others are simulated, and their mean flow time, deadlines kept and machine hours must agree
within 10 %. So the machine must have nothing else to do meanwhile. Everything comes from the
decision log and the events beside it. What is not shown: that Google's machines start as the test
bed's do, and anything about machines that are taken back.
"""

from __future__ import annotations

import argparse
import datetime
import signal
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
class Part:
    """A part of the run: what was submitted, and the log of it."""

    scripts: list[Script]
    log: Log


def run_part(bed: Bed, planned: list[Script]) -> Part:
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
        return Part(planned, stored_log(connection, since, time.time()))


def warm_up() -> list[Script]:
    """Before all parts: Ray's first processes at home take longer to start than all others."""
    some = scripts(0, 60.0, 1.0)
    short = [one for one in some if not any(piece.is_long for piece in one.pieces)]
    return [Script(0.5 * number, one.pieces) for number, one in enumerate(short[:6])]


def compare(
    known: Sequence[Part], held_out: Sequence[Part]
) -> tuple[replay.Fitted, replay.Figures, replay.Figures]:
    """What was fitted to some parts, what was measured in others, and what is simulated of them."""
    fitted = replay.fit([one.log for one in known])
    real = [replay.measured(one.log, one.scripts) for one in held_out]
    model = [replay.simulated(one.log, one.scripts, fitted) for one in held_out]
    return fitted, replay.pooled(real), replay.pooled(model)


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
            f"- fitted to the others: {fitted.at_home:.2f} s beside a step's function at home, "
            f"{fitted.on_machine:.2f} s on a machine, {fitted.start:.1f} s to start one, "
            f"{fitted.idle:.0f} s until an idle one is gone"
        ),
        "",
        f"| held out, {real.workflows} workflows | real | simulated | off by | within 10 % |",
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
    count = 4 if given.minutes >= 16 else 2
    # in each part the last workflows end, and the machines go
    seconds = 60.0 * given.minutes / count - 75.0
    begun = time.monotonic()
    # a run that is stopped ends its head and machines, too
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="ironcliw-routing-") as folder:
            with routed_head(
                Path(folder),
                modules=[_WORK],
                policy=f"{_WORK}:ByLength",
                cpus=HEAD_CPUS,
                idle_seconds=IDLE_SECONDS,
            ) as bed:
                run_part(bed, warm_up())
                plans = [
                    scripts(count * given.seed + number, seconds, GAP_SECONDS)
                    for number in range(count)
                ]
                parts = [run_part(bed, one) for one in plans]
        fitted, real, model = compare(parts[::2], parts[1::2])
    except IroncliwError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    machine, day = Machine.read(), datetime.date.today().isoformat()
    facts = {
        "CPU": f"{machine.cpu}, {machine.cores} cores",
        "commit": commit(),
        "date": day,
        "run": f"{(time.monotonic() - begun) / 60:.0f} min, seed {given.seed}, head included",
        "decisions in the log": str(sum(len(one.log.decisions) for one in parts)),
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
