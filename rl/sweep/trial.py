"""One trial: a training that goes on from its newest checkpoint wherever Ray Tune starts it again.

What a training is, is a function of four arguments (`Trainer`), loaded by name. It keeps what it
needs to go on in a folder; each report takes that folder into the sweep's storage as a checkpoint.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.names import load_by_name
from ironcliw.errors import TrainingError

Tell = Callable[[int, float], None]
Trainer = Callable[[Mapping[str, Any], Path, int, Tell], None]
"""(values, folder, rounds, tell): go on from what the folder holds until `rounds` are done.

After each round the state is in the folder, and then `tell(round, ratio)` is called, `ratio` being
the cost on days of validation by the base's.
"""
ROUND, RATIO = "round", "ratio"


def run_trial(config: dict[str, Any]) -> None:
    """A trainable of Ray Tune's; called in a trial's process.

    Raises:
        TrainingError: a round has no ratio; Tune counts it as a failure of the trial.
    """
    from ray import tune

    trainer: Trainer = load_by_name(config["trainer"])
    with tempfile.TemporaryDirectory(prefix="ironcliw-trial-") as name:
        folder = Path(name)
        before = tune.get_checkpoint()
        if before is not None:
            before.to_directory(name)

        def tell(number: int, ratio: float) -> None:
            if not math.isfinite(ratio):
                raise TrainingError(f"round {number} of {config['point']} has the ratio {ratio}")
            tune.report(
                {ROUND: number, RATIO: ratio}, checkpoint=tune.Checkpoint.from_directory(name)
            )

        trainer({**config["fixed"], **config["point"]}, folder, config["rounds"], tell)
