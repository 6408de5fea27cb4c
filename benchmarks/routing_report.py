"""Where steps run: learned policies, rules, the tuned greedy, and who knew the day beforehand.

    python -m benchmarks.routing_report [--quick] [--policy FILE ...]      (make report-routing)

400 held-out days of each regime with every policy, 24 of them searched; then the document
`results/routing_HARDWARE_DATE.md` with its pictures beside it. What is done is kept in `--work`, so
that the same command goes on where it was stopped. Everything but the last section follows from the
seed: it is the same whenever it is made again. What is not shown here: the running system, whose
steps `benchmarks.routing_validation` measures.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence

from benchmarks.machine import ROOT, Machine, commit
from ironcliw import __version__
from ironcliw.errors import IroncliwError
from rl.report import command


def main(argv: Sequence[str]) -> int:
    """Write the report; 1 where a goal is missed, one of time too, or it could not be made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing_report")
    command.add_arguments(parser)
    parser.set_defaults(out=None)
    arguments = parser.parse_args(argv)
    machine = Machine.read()
    day = datetime.date.today().isoformat()
    mark = "quick_" if arguments.quick else ""
    name = f"routing_{mark}{machine.slug}_{day}.md"
    out = arguments.out or ROOT / "benchmarks" / "results" / name
    facts = {
        "CPU": f"{machine.cpu}, {machine.cores} cores",
        "commit": commit(),
        "release": __version__,
        "date": day,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        goals = command.make(arguments, out, facts)
    except IroncliwError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return int(any(one.met is False for one in goals))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
