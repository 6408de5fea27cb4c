"""What of the training by RLlib needs no RLlib: what is weighed, and the folder of checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra rl")

from ironcliw.errors import SettingsError
from rl import neural
from rl.features import features
from rl.greedy import Greedy
from rl.parameters import load_parameters
from rl.regime import load_regime
from rl.rllib.checkpoints import KEPT, TRAINING, Checkpoints
from rl.rllib.decisions import weighed
from rl.simulator import Simulation
from rl.workload import make_day

REGIMES = Path(__file__).parents[3] / "rl" / "regimes"
REACH = 0.1


@pytest.mark.parametrize("machines", [False, True])
@pytest.mark.parametrize("name", ["light", "high_hazard"])
def test_the_learner_weighs_what_the_policy_weighs(name: str, machines: bool) -> None:
    greedy, asked = Greedy(load_parameters()), {"steps": 0, "machines": 0}
    simulation = Simulation(make_day(load_regime(REGIMES / f"{name}.toml"), 5, "train", 0))
    while (decision := simulation.next_decision()) is not None:
        view, mask = decision.view, decision.mask
        costs = greedy.costs(view, mask)
        context, options = features(view, mask, costs)
        found = weighed(np.concatenate([context, options.ravel()]), REACH, machines)
        wanted = neural.weighed(costs, view, REACH, machines) or [greedy.choose(view, mask)]
        assert np.flatnonzero(found).tolist() == wanted
        asked["machines" if view.step is None else "steps"] += len(wanted) > 1
        simulation.take(greedy.choose(view, mask))
    assert asked["steps"] > 10
    assert (asked["machines"] > 0) == machines


def _write(path: str) -> None:
    (Path(path) / "part").mkdir(parents=True)


def test_a_checkpoint_that_was_not_finished_is_not_gone_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kept = Checkpoints(str(folder), {"seed": 1})
    assert kept.newest() is None
    kept.save(5, _write)

    def fail(path: str) -> None:
        _write(path)
        raise OSError("the machine is gone")

    with pytest.raises(OSError, match="the machine is gone"):
        kept.save(10, fail)
    again = Checkpoints(str(folder), {"seed": 1})
    assert again.newest() == str(folder / "iteration-000005")
    again.save(10, _write)
    assert again.newest() == str(folder / "iteration-000010")
    for iteration in (15, 20):
        again.save(iteration, _write)
    left = sorted(path.name for path in folder.iterdir())
    numbers = [15, 20][-KEPT:]
    assert left == sorted(
        [TRAINING, *(f"iteration-{one:06}{end}" for one in numbers for end in ("", ".done"))]
    )


def test_a_folder_belongs_to_one_training(tmp_path: Path) -> None:
    Checkpoints(str(tmp_path), {"seed": 1, "regimes": {"light": "ab"}, "margins": (0.5,)})
    Checkpoints(str(tmp_path), {"seed": 1, "regimes": {"light": "ab"}, "margins": (0.5,)})
    message = r"holds a training with other values of reach, regimes; give this one a --folder"
    with pytest.raises(SettingsError, match=message):
        Checkpoints(
            str(tmp_path), {"seed": 1, "regimes": {"light": "cd"}, "margins": (0.5,), "reach": 0.1}
        )


def test_a_folder_of_an_earlier_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(SettingsError, match="a training of an earlier release, which did not say"):
        Checkpoints(str(tmp_path), {"seed": 1})
