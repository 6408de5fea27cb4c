"""Who is compared: the baselines, learned policies from their files, and whoever knows the day."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from ironcliw.errors import SettingsError
from rl.baselines import RULES
from rl.bounds import lower_bound
from rl.clairvoyant import Rest, search
from rl.evaluate import BASE, baselines
from rl.greedy import GreedyParameters
from rl.neural import Learned
from rl.parameters import Parameters, load_tuned, policy_of
from rl.policy_file import load_policy
from rl.simulator import Order, Policy, simulate
from rl.view import View
from rl.work import Day

CLAIRVOYANT = "clairvoyant"
LITERAL = tuple(rule.name for rule in RULES if rule.name.startswith("rule "))
"""The rules of the original plan."""
TUNED_SUFFIX = ".toml"
"""Of files that `python -m rl tune` writes; others are learned policies."""
RULE_NAMES = tuple(rule.name for rule in RULES)
_PATHS = ("file", "starts")
_LEARNED = "learned"


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who decides; may be sent to another process.

    Attributes:
        name: In the report.
        kind: A baseline by its name, a learned policy from its file, or the search.
        parameters: Of the tuned expected-cost policy.
        file: Of a learned policy.
        digest: Of that policy, as its file says; of its base where it learned nothing.
        factor: By which the value of time and of deadlines is multiplied before it decides.
        evaluations: Of the search, a day.
        starts: Files of policies that the search may begin with, beside the tuned one.
    """

    name: str
    kind: str
    parameters: GreedyParameters
    file: str = ""
    digest: str = ""
    factor: float = 1.0
    evaluations: int = 0
    starts: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What its decisions depend on, as text; not where its files lie, but what they hold."""
        # two files of one digest decide alike, whatever they are called
        left_out = (*_PATHS, "name") if self.kind == _LEARNED else _PATHS
        values = {key: value for key, value in asdict(self).items() if key not in left_out}
        return json.dumps(values, sort_keys=True)

    def run(self, day: Day) -> dict[str, float]:
        """What the day comes to; with `bound` where it is the search."""
        if self.kind == CLAIRVOYANT:
            starts = [self.parameters, *(_start(Path(one)) for one in self.starts)]
            outcome = search(day, starts, evaluations=self.evaluations)[1]
            return {**outcome.as_dict(), "bound": lower_bound(day)}
        return simulate(day, self.policy()).as_dict()

    def policy(self) -> Policy:
        """A new one: some remember the day's steps.

        Raises:
            SettingsError: its file cannot be read, or is no policy for these features.
        """
        if self.kind == _LEARNED:
            made = learned_policy(Path(self.file))
        else:
            made = baselines(self.parameters)[self.name_of_policy]()
        return made if self.factor == 1.0 else Valuing(made, self.factor)

    @property
    def name_of_policy(self) -> str:
        """Without what says at which value of time it decides."""
        return self.name.partition(" at ")[0]

    def at(self, factor: float) -> Contestant:
        """The same at another value of time."""
        return replace(self, name=f"{self.name} at {factor:g}", factor=factor)


class Valuing:
    """A policy that is told another value of time and of deadlines: a point of its frontier.

    Args:
        policy: That decides.
        factor: By which both are multiplied in what it sees.
    """

    def __init__(self, policy: Policy, factor: float) -> None:
        self._policy = policy
        self._factor = factor
        self.name = policy.name
        self.order: Order = policy.order

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        money = replace(
            view.money,
            hour_of_priority=view.money.hour_of_priority * self._factor,
            miss=view.money.miss * self._factor,
        )
        return self._policy.choose(replace(view, money=money), mask)


def learned_policy(path: Path) -> Policy:
    """A learned or a tuned policy from its file, without torch.

    Raises:
        SettingsError: it cannot be read, or is no policy for these features.
    """
    if path.suffix == TUNED_SUFFIX:
        return policy_of(load_tuned(path), f"learned {path.stem}")
    policy = load_policy(path)
    if policy.is_silent:
        return policy_of(policy.parameters, f"learned {path.stem}")
    return Learned(policy, name=f"learned {path.stem}")


def all_baselines(parameters: GreedyParameters) -> list[Contestant]:
    """Every baseline."""
    return [Contestant(name, "baseline", parameters) for name in baselines(parameters)]


def tuned(parameters: GreedyParameters) -> Contestant:
    """What all others are compared with."""
    return Contestant(BASE, "baseline", parameters)


def clairvoyant(
    parameters: GreedyParameters, evaluations: int, others: Sequence[Contestant] = ()
) -> Contestant:
    """The search that knows the day; it begins with the best of the tuned policy and of others."""
    starts = {one.digest: one.file for one in reversed(others)}
    digest = hashlib.sha256("\n".join(sorted(starts)).encode()).hexdigest()
    return Contestant(
        CLAIRVOYANT,
        CLAIRVOYANT,
        parameters,
        digest=digest if others else "",
        evaluations=evaluations,
        starts=tuple(starts.values()),
    )


@cache
def _start(path: Path) -> Rest:
    return load_tuned(path) if path.suffix == TUNED_SUFFIX else load_policy(path)


def learned(paths: Sequence[Path], parameters: GreedyParameters) -> list[Contestant]:
    """Policies from their files, named by them.

    Raises:
        SettingsError: a file cannot be read, is no policy, or two have one name.
    """
    found: dict[str, Contestant] = {}
    for path in paths:
        digest = _digest(path)
        name = f"learned {path.stem}"
        if name in found:
            raise SettingsError(
                f"two policy files are named {path.name}; give files of different names, "
                "which the report tells them apart by"
            )
        found[name] = Contestant(name, _LEARNED, parameters, str(path.resolve()), digest)
    return list(found.values())


def _digest(path: Path) -> str:
    """Of what a file decides by; raises before hours of work."""
    if path.suffix == TUNED_SUFFIX:
        return _digest_of(load_tuned(path))
    policy = load_policy(path)
    return _digest_of(policy.parameters) if policy.is_silent else policy.digest


def _digest_of(parameters: Parameters) -> str:
    values = [type(parameters).__name__, json.dumps(asdict(parameters), sort_keys=True)]
    return hashlib.sha256("\n".join(values).encode()).hexdigest()
