"""A sweep over the learning's numbers by Ray Tune, which goes on where it was."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError
from rl.sweep.config import Point, SweepConfig
from rl.sweep.regimes import REGIMES, sent
from rl.sweep.trial import RATIO, ROUND, run_trial

MOST_FAILURES = 3
"""Of a trial beside lost machines, of which Tune counts none."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one.

    Attributes:
        point: Its numbers.
        ratios: After each round that it told of: the cost by the tuned policy's.
        state: `finished`, `ended early`, `failed` or `unfinished`.
        error: Why it failed, else "".
        checkpoint: Path or URI of its newest state.
    """

    point: Point
    ratios: dict[int, float] = field(default_factory=dict)
    state: str = "unfinished"
    error: str = ""
    checkpoint: str = ""

    @property
    def best(self) -> float | None:
        """The lowest ratio; None without any."""
        return min(self.ratios.values(), default=None)


def run_sweep(config: SweepConfig, report: Callable[[str], None]) -> list[Trial]:
    """Run all trials to their ends, or go on with those that were begun; Ray must be started.

    Args:
        config: Of the sweep.
        report: Told in words how many there are.

    Raises:
        SettingsError: a sweep of this name was begun with other values, or a regime's file cannot
            be used.
    """
    from ray import tune

    told = sent(config.fixed)
    storage = _absolute(config.storage)
    path = f"{storage}/{config.name}"
    _check_begun(config, told, path)
    points = config.points()
    resources: dict[str, float] = {
        "CPU": config.cpus,
        **({"spot": 0.001} if config.on_spot else {}),
    }
    trainable = tune.with_resources(run_trial, tune.PlacementGroupFactory([resources]))
    fixed = {"trainer": config.trainer, "rounds": config.rounds, "fixed": told}
    space = {**fixed, "point": tune.grid_search(points)}
    if tune.Tuner.can_restore(path):
        report(f"sweep {config.name} goes on; {len(points)} trials")
        tuner = tune.Tuner.restore(
            path, trainable=trainable, param_space=space, resume_errored=True
        )
    else:
        report(f"sweep {config.name} begins; {len(points)} trials")
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=RATIO,
                mode="min",
                scheduler=_scheduler(config),
                max_concurrent_trials=config.concurrent,
            ),
            run_config=tune.RunConfig(
                name=config.name,
                storage_path=storage,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MOST_FAILURES),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            ),
        )
    # Tune draws boxes on the standard output, which is for results
    with contextlib.redirect_stdout(sys.stderr):
        found = tuner.fit()
    return [_trial(found[index], config) for index in range(len(found))]


def _trial(result: Any, config: SweepConfig) -> Trial:
    history, ratios = result.metrics_dataframe, {}
    if history is not None:
        pairs = zip(history[ROUND], history[RATIO], strict=True)
        ratios = {int(number): float(ratio) for number, ratio in pairs}
    if result.error is not None:
        state = "failed"
    elif ratios and max(ratios) >= config.rounds:
        state = "finished"
    else:
        state = "ended early" if ratios and config.scheduler == "asha" else "unfinished"
    error = "" if result.error is None else str(result.error).strip().splitlines()[-1]
    checkpoint = "" if result.checkpoint is None else str(result.checkpoint.path)
    return Trial(dict(result.config["point"]), ratios, state, error, checkpoint)


def _scheduler(config: SweepConfig) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    if config.scheduler == "none" or config.rounds <= config.grace:
        return None  # first come, first served
    return ASHAScheduler(time_attr=ROUND, max_t=config.rounds, grace_period=config.grace)


def _check_begun(config: SweepConfig, fixed: dict[str, Any], path: str) -> None:
    """Compare a sweep with what its folder holds, or write down what it begins with."""
    from pyarrow import fs

    files, place = fs.FileSystem.from_uri(path if "://" in path else Path(path).as_uri())
    told = f"{place}/sweep.json"
    free = {"storage", "concurrent", "cpus", "on_spot"}
    # a regime whose file was changed is another value
    now = config.model_dump(mode="json", exclude=free)
    now["fixed"].update({name: fixed[name] for name in (REGIMES,) if name in fixed})
    if files.get_file_info(told).type == fs.FileType.File:
        with files.open_input_stream(told) as file:
            before = json.loads(file.read())
        if changed := sorted(name for name in now if before.get(name) != now[name]):
            raise SettingsError(
                f"sweep {config.name} was begun with other values of {', '.join(changed)} "
                f"({path}); give this one a name of its own"
            )
        return
    files.create_dir(place, recursive=True)
    with files.open_output_stream(told) as file:
        file.write((json.dumps(now, indent=1) + "\n").encode())


def _absolute(storage: str) -> str:
    """Trials have other working directories."""
    return storage.rstrip("/") if "://" in storage else str(Path(storage).absolute())
