"""The learning of `rl.learning` as a trial of a sweep (`rl.sweep.trial.Trainer`).

A round labels decisions under the policy so far and fits the network to all labels until now, as
`python -m rl train` does. After a loss it goes on with the labels and the policy of the last round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ironcliw.errors import SettingsError
from ironcliw.settings import load_settings
from rl.learning.days import check_regimes, fresh_days, training_days, validation_days
from rl.learning.labels import Labels, collect, stacked
from rl.learning.plan import Training
from rl.learning.selection import confirmed, judged, measured
from rl.learning.train import fitted_policy, parts_of
from rl.neural import Learned
from rl.parameters import policy_of
from rl.policy_file import save_policy
from rl.simulator import Policy
from rl.sweep.regimes import NAMED, received, received_base
from rl.sweep.trial import Tell

POLICY = "policy.npz"


def train(values: Mapping[str, Any], folder: Path, rounds: int, tell: Tell) -> None:
    """Learn; see `Trainer`.

    Args:
        values: Of `rl.learning.plan.Training`, and `regimes` and `base`, see `rl.sweep.regimes`.
        folder: Of the labels of each round, and of the newest policy.
        rounds: All of them.
        tell: Told of each, with the score by which policies are chosen.

    Raises:
        SettingsError: a value has no such name or is wrong, a regime is held out, or the labels
            are of another release.
    """
    own = {name: value for name, value in values.items() if name not in NAMED}
    plan = Training.of({**own, "rounds": rounds}, "the sweep")
    if other := [name for name in ("cloned", "ppo_steps") if getattr(plan, name)]:
        raise SettingsError(
            f"the sweep: {other[0]} is set, and its rounds are of labels alone; leave it out, or "
            "compare files of `python -m rl train --config` by `python -m rl evaluate`"
        )
    regimes = received(values)
    check_regimes(regimes)
    data, parameters = load_settings().bench.data, received_base(values)
    start = policy_of(parameters)
    days = validation_days(regimes, plan, data)
    base = measured(start, days)
    kept = [_read(path) for path in sorted(folder.glob("labels-*.npz"))][:rounds]
    for number in range(len(kept), rounds):
        policy: Policy = Learned(folder / POLICY) if number else start
        found = collect(
            training_days(regimes, plan, number, data), policy, start, plan, number=number
        )
        kept.append(stacked(found, plan.alternatives))
        fitted = fitted_policy(_joined(kept), parameters, plan, 0.0, lambda line: None)
        tried = parts_of(fitted, plan)
        scores = [judged(one, days, base, plan.most_dollars).score for one in tried]
        best = int(np.argmin(scores))
        # the next round's labels come from a policy that is better than the base, or from the base
        is_better = scores[best] < 1.0 and (
            confirmed(tried[best], fresh_days(regimes, plan, number, data)).holds
        )
        save_policy(folder / POLICY, tried[best] if is_better else tried[best].silent())
        # last: a round counts when its labels are there
        _write(folder / f"labels-{number:04}.npz", kept[-1])
        tell(number + 1, scores[best])


def _joined(parts: Sequence[Labels]) -> Labels:
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Labels)
    }
    return Labels(**columns)


def _write(path: Path, labels: Labels) -> None:
    arrays = {field.name: getattr(labels, field.name) for field in fields(Labels)}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read(path: Path) -> Labels:
    with np.load(path, allow_pickle=False) as file:
        names = {field.name for field in fields(Labels)}
        if absent := sorted(names - set(file.files)):
            raise SettingsError(
                f"the sweep's labels in {path.name} are of another release: they have no "
                f"{absent[0]}; begin again under another name"
            )
        return Labels(**{name: file[name] for name in names})
