"""What a report needs: who is run on which days, in blocks that are kept when they are done."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rl.evaluate import BASE
from rl.parameters import TUNED, load_parameters
from rl.regime import Regime, load_regime
from rl.report.contestants import (
    CLAIRVOYANT,
    Contestant,
    all_baselines,
    clairvoyant,
    learned,
    tuned,
)
from rl.traces import Split, digest_of

_RL = TUNED.parent
REGIMES = _RL / "regimes"
FACTORS = (0.1, 0.3, 3.0, 10.0)
"""Of the value of time, beside 1: the frontier between money and deadlines."""
_BLOCK = 25


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for.

    Attributes:
        regimes: Files; the six of the project where none is given.
        policies: Files of learned policies, one for each seed of the training.
        parameters: File of the tuned expected-cost policy.
        days: Of each regime.
        clairvoyant: Of them, the first so many are searched.
        evaluations: Of the search, a day.
        frontier: Days of each regime on which the value of time is varied.
        seed: Of the days.
        split: Whose days.
        data: The data folder.
        processes: That work at once.
    """

    regimes: tuple[Path, ...] = ()
    policies: tuple[Path, ...] = ()
    parameters: Path = TUNED
    days: int = 400
    clairvoyant: int = 24
    evaluations: int = 400
    frontier: int = 100
    seed: int = 1
    split: Split = "test"
    data: Path | None = None
    processes: int = 2


@dataclass(frozen=True, slots=True)
class Unit:
    """Work of some seconds, done by one process.

    Attributes:
        first: Number of its first day.
        count: Of its days.
        traces: Digest of the real traces that its days come from; empty: they need none.
    """

    regime: Regime
    seed: int
    split: Split
    first: int
    count: int
    contestant: Contestant
    traces: str = ""

    @property
    def key(self) -> str:
        """Under which its result is kept: equal only where the result must be equal."""
        parts = (
            code_digest(self.contestant.kind), self.regime.digest(), str(self.seed), self.split,
            str(self.first), str(self.count), self.traces, self.contestant.identity,
        )  # fmt: skip
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a report.

    Attributes:
        baselines: That run on all days, the base among them.
        learned: Policies from files, likewise.
        search: Who knows the day.
    """

    options: Options
    regimes: tuple[Regime, ...]
    baselines: tuple[Contestant, ...]
    learned: tuple[Contestant, ...]
    search: Contestant

    @classmethod
    def of(cls, options: Options) -> Plan:
        """From what is asked for.

        Raises:
            SettingsError: a file is absent or not what it should be.
        """
        parameters = load_parameters(options.parameters)
        ours = tuple(learned(options.policies, parameters))
        paths = options.regimes or tuple(sorted(REGIMES.glob("*.toml")))
        return cls(
            options,
            tuple(load_regime(path) for path in paths),
            tuple(all_baselines(parameters)),
            ours,
            clairvoyant(parameters, options.evaluations, ours),
        )

    @property
    def base(self) -> Contestant:
        """The tuned expected-cost policy."""
        return tuned(self.baselines[0].parameters)

    def on_all_days(self) -> tuple[Contestant, ...]:
        """Who runs on all days."""
        return self.baselines + self.learned

    def of_frontier(self, ours: str) -> list[Contestant]:
        """The base and our policy at other values of time."""
        wanted = [one for one in self.on_all_days() if one.name in (BASE, ours)]
        return [one.at(factor) for one in wanted for factor in FACTORS]

    def _traces(self, regime: Regime) -> str:
        if not regime.needs_traces:
            return ""
        return digest_of(self.options.data or Path("."), regime.arrivals.source)

    def units(
        self, contestants: Sequence[Contestant], days: int, block: int = _BLOCK
    ) -> list[Unit]:
        """The first days of each regime with each of some contestants.

        Raises:
            DataError: a regime needs traces that are not there.
        """
        options, traces = self.options, {one.name: self._traces(one) for one in self.regimes}
        return [
            Unit(
                regime,
                options.seed,
                options.split,
                first,
                min(block, days - first),
                one,
                traces[regime.name],
            )
            for regime in self.regimes
            for first in range(0, days, block)
            for one in contestants
        ]


_DECIDING = (
    "baselines", "beliefs", "bounds", "critical_paths", "draws", "events", "fleet", "greedy",
    "guardrails", "ledger", "mechanics", "outcome", "pace", "regime", "remaining",
    "shapes", "simulator", "sites", "traces", "uniform_progress", "upcoming", "urgency", "view",
    "view_parts", "views", "weights", "work", "workload",
)  # fmt: skip
_DECIDING_LEARNED = (
    "clairvoyant", "effects", "features", "look_ahead", "neural", "parameters", "policy_file",
    "queue_aware", "queue_parameters", "schema", "sharing",
)  # fmt: skip
_DECIDING_OUTSIDE = ("cluster/placement.py",)
"""Beside this package's folder."""


@cache
def code_digest(kind: str = "") -> str:
    """SHA-256 of the sources that decide what a day comes to, for a kind of contestant."""
    names = (*_DECIDING, *(_DECIDING_LEARNED if kind in ("learned", CLAIRVOYANT) else ()))
    files = (*(f"{_RL.name}/{name}.py" for name in names), *_DECIDING_OUTSIDE)
    texts = (f"{file}\n".encode() + (_RL.parent / file).read_bytes() for file in files)
    return hashlib.sha256(b"\0".join(texts)).hexdigest()
