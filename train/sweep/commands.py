"""`ironcliw train tune`: which numbers of a run are the best."""

from __future__ import annotations

import typer

from ironcliw import console
from train.command_options import AsJson, Changes, Config, changed_keys, told_line_by_line


def tune(config: Config, changes: Changes = None, as_json: AsJson = False) -> None:
    """Try a run with other numbers, such as its rank, learning rate or beta, and compare.

    The same command again resumes a sweep that was interrupted, and shows the results of one that
    is finished. Exits with 1 where no trial was finished, and with 130 after Ctrl-C.
    """
    settings = console.command_settings()
    from train.sweep.config import read_sweep
    from train.sweep.results import as_json as whole
    from train.sweep.results import best, table
    from train.sweep.run import PAGE, run_sweep, sweep_uri

    with told_line_by_line(as_json=as_json):
        wanted = read_sweep(config, changed_keys(changes or []))
        trials = run_sweep(wanted, settings, console.note)
    winner = best(wanted, trials)
    page = f"{sweep_uri(wanted, settings)}/{PAGE}"
    if as_json:
        console.write_json({**whole(wanted, trials), "report": page})
    else:
        console.write_table(*table(wanted, trials))
        if winner is not None:
            console.write_line(f"best: {winner.uri}")
        console.write_line(f"report: {page}")
    if open_ones := sum(trial.state == "unfinished" for trial in trials):
        console.note(
            f"error: the sweep was interrupted, and {open_ones} of its {len(trials)} trials are "
            "not finished; the same command goes on with them"
        )
        raise typer.Exit(console.EXIT_INTERRUPTED)
    if winner is None:
        console.note("error: no trial is finished with a measure; see the report for why")
        raise typer.Exit(console.EXIT_FAILED)
