"""Trials by Ray Tune: those that were begun go on, and those that have failed are tried again.

To Ray Tune a trial that has failed has ended like any other, and it is never started again: so
these are an experiment of their own, `tune-2`, `tune-3` and so on beside `tune`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from train.placement import Place
from train.run_files import RunFiles
from train.sweep.config import Point, SweepConfig
from train.sweep.points import trial_name
from train.sweep.trial import EPOCH, TrialJob, forget_failure, run_trial

Report = Callable[[str], None]
_FIRST = "tune"


def tune_all(
    tried: list[Point], failed: list[Point], given: TrialJob, place: Place, report: Report
) -> dict[str, str]:
    """Run all trials to their ends.

    Args:
        tried: All points of the sweep.
        failed: Those that are to be tried again.
        given: What all trials have.
        place: Of their workers.
        report: Told in words of each evaluation.

    Returns:
        The trials that Ray Tune has ended, by name, and why where it was an error, else "".
    """
    begun = _begun(given.uri)
    experiments = [(name, _points(name, given.uri) or tried) for name in begun]
    new = _name(len(begun) + 1)
    # what a command was about to try again that was killed just then
    meant = _points(new, given.uri)
    left = [*failed, *(point for point in meant if point not in failed)] if begun else tried
    if left:
        RunFiles(given.uri).write(f"{new}.json", {"points": left})
        experiments.append((new, left))
    for point in failed:
        forget_failure(given.uri, point)
    ends: dict[str, str] = {}
    for name, points in experiments:
        for point in points:
            # what counts is how it ends at last
            ends.pop(trial_name(point), None)
        ends |= _tune(name, points, given, place, report)
    return ends


def _begun(uri: str) -> list[str]:
    """The experiments of a sweep that can go on, the first one first."""
    from ray import tune

    found: list[str] = []
    while tune.Tuner.can_restore(f"{uri}/{_name(len(found) + 1)}"):
        found.append(_name(len(found) + 1))
    return found


def _name(number: int) -> str:
    return _FIRST if number == 1 else f"{_FIRST}-{number}"


def _points(name: str, uri: str) -> list[Point]:
    """Of an experiment; none where that was not written down, as by older releases."""
    told = RunFiles(uri).read(f"{name}.json")
    return [] if told is None else list(told["points"])


def _tune(
    name: str, points: list[Point], given: TrialJob, place: Place, report: Report
) -> dict[str, str]:
    """Run an experiment; returns those of its trials that have ended, and why where they failed.

    After Ctrl-C Ray Tune returns as if all were done: the others are those that were going on.
    """
    from ray import tune

    from train.sweep.telling import Teller, telling

    config = given.sweep
    resources: dict[str, float] = {"CPU": float(given.job.threads)}
    if place.use_gpu:
        resources["GPU"] = 1.0 / config.concurrent
    selectors: dict[str, Any] = {"bundle_label_selector": [place.labels]} if place.labels else {}
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, given=given),
        tune.PlacementGroupFactory([resources], **selectors),
    )
    space = {"point": tune.grid_search(points)}
    path = f"{given.uri}/{name}"
    if tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(
            path, trainable=trainable, param_space=space, resume_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(config, given.job.config.num_epochs),
                metric=config.metric,
                mode=config.mode,
                max_concurrent_trials=config.concurrent,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=given.uri,
                verbose=0,
                callbacks=[Teller(config.metric)],
                # any number: the run itself counts those without progress (`max_failures`)
                failure_config=tune.FailureConfig(max_failures=-1),
            ),
        )
    # Tune draws boxes on the standard output, which is for results
    with telling(report) as ends, contextlib.redirect_stdout(sys.stderr):
        tuner.fit()
    return ends


def _scheduler(config: SweepConfig, epochs: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    if config.scheduler == "none" or epochs <= config.grace_epochs:
        return None  # first come, first served
    return ASHAScheduler(
        time_attr=EPOCH,
        # whoever reaches the last epoch ends by itself: its result is to be written
        max_t=epochs - 1,
        stop_last_trials=False,
        grace_period=config.grace_epochs,
        reduction_factor=config.reduction_factor,
    )
