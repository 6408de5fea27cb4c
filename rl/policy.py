"""The router that the running system uses: `routing.policy = "rl.policy:NumpyPolicy"`.

It needs numpy alone. A learned policy decides where its standing allows it (`rl.promotion`), the
tuned policy of `rl.live.base` elsewhere (rows say `tuned`, whichever it is), and
the rules of placement where that one raised alarms too. Whatever goes wrong with one is logged and
counted, and the next of them decides.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.routing import LOCAL, PlacementPolicy, mask_of, options_of
from actors.situation import EndedFacts, Placement, Situation, StepFacts
from ironcliw.errors import DataError, IroncliwError
from rl.baselines import least_loaded
from rl.calibration.files import load_fit
from rl.calibration.fit import Fit, prior
from rl.features import features
from rl.live.base import base_of, base_parameters, learned_of, schema_of
from rl.live.exploring import Drawn, explore
from rl.live.parts import parts_of
from rl.live.record import STEP_ACTIONS, Verdict, placement_of
from rl.live.today import Today
from rl.live.views import LiveView, LiveViews
from rl.neural import Learned
from rl.parameters import Base, Parameters
from rl.promotion import Standing, decides
from rl.regime import Costs
from rl.schema import DIGEST
from rl.simulator import Order
from rl.urgency import Urgency
from rl.view import HOME, WAIT

if TYPE_CHECKING:
    from actors.journal import Journal
    from ironcliw.settings import Settings

logger = logging.getLogger(__name__)

FOLDER = "routing"
"""In the state directory: the fit and the policies that were installed."""
FIT_FILE = "fit.json"
SLOW_SECONDS = 0.005
_RECENT = 500
_MOST_SLOW = 5
_TOLD_EACH = 100
_RULES = "placement rules"
_URGENT = Urgency()


def policy_path(state_dir: Path, digest: str) -> Path:
    """Where an installed policy lies."""
    return state_dir / FOLDER / f"policy-{digest[:16]}.npz"


@dataclass(slots=True)
class Counts:
    """What became of decisions since the process began.

    Attributes:
        decided: By `learned`, `tuned`, `rules`.
        fallbacks: Reasons why another than the one that should have decided did.
        bad_numbers: Decisions with a feature that is no number.
        failures: Decisions in which this program failed, so that the rules of placement decided.
        seconds: Of processor time, of the newest decisions of the learned policy.
    """

    decided: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    bad_numbers: int = 0
    failures: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def is_slow(self) -> bool:
        """Whether more than one in a hundred of the newest took over 5 ms, and some have."""
        slow = sum(one > SLOW_SECONDS for one in self.seconds)
        return slow >= _MOST_SLOW and slow > 0.01 * len(self.seconds)


class NumpyPolicy:
    """An `actors.situation.SituationPolicy`.

    Args:
        state_dir: Of the cluster; None: nothing is read from it, and nothing is learned.
        exploration: Share of decisions that try another option; see `rl.live.exploring`.
        parameters: Of the tuned policy; those of the state directory or the shipped ones without.
        idle_seconds: After which the system gives machines back; None: as the parameters have it.
        fit: What is believed; read from the state directory without, else the shipped priors.
        costs: What waiting and missed deadlines are worth.
        settings: For what it does at night; None: nothing.
        clock: Seconds of processor time of this thread.
    """

    name = "numpy"

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        exploration: float = 0.0,
        parameters: Parameters | None = None,
        idle_seconds: float | None = None,
        fit: Fit | None = None,
        costs: Costs | None = None,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self.state_dir = state_dir
        self.settings = settings
        self.standing = Standing()
        self.counts = Counts()
        self.bad_file = ""
        self.killed: tuple[float, ...] = ()
        self._exploration = exploration
        folder = None if state_dir is None else state_dir / FOLDER
        self.base = base_of(parameters or base_parameters(folder), idle_seconds)
        self._idle_seconds = idle_seconds
        self._schema = schema_of(self.base)
        self._learned: Learned | None = None
        self._costs = costs
        self._today = Today(fit or self._read_fit())
        self._views = LiveViews(self._today.fit, costs)
        self._clock = clock
        self._rules = PlacementPolicy()

    @classmethod
    def of(cls, settings: Settings) -> NumpyPolicy:
        """For a cluster; `actors.routing.load_policy` calls it."""
        return cls(
            settings.state_dir,
            exploration=settings.routing.exploration,
            idle_seconds=60.0 * settings.cloud.idle_minutes,
            settings=settings,
        )

    @property
    def fit(self) -> Fit:
        """What is believed now."""
        return self._views.fit

    def believe(self, fit: Fit | None = None) -> None:
        """Take a new fit; the one in the state directory without."""
        self._today = Today(fit or self._read_fit())
        self._views = LiveViews(self._today.fit, self._costs)

    def ran(self, ended: EndedFacts, place: str) -> None:
        """See `actors.situation.ObservingPolicy`."""
        if self._today.ran(ended.target, place, ended.seconds, ended.expected_seconds):
            self._views = LiveViews(self._today.fit, self._costs)

    def stand(self, standing: Standing) -> None:
        """Take a new standing, and the policy that it names."""
        wanted = "" if standing.stage == "off" else standing.policy
        loaded = "" if self._learned is None else self._learned.policy.digest
        if wanted != loaded or not wanted:
            self.bad_file = ""  # of no file, or of another: it is nobody's alarm any more
        if wanted != loaded:
            self._learned, self.counts = None, Counts()
            if wanted:
                self._learned = self._load(wanted)
        if standing != self.standing:
            self.counts.failures = 0
        self.standing = standing

    async def run(self, journal: Journal, changed: Callable[[], None]) -> None:
        """Follow the standing in the store, and refit and judge at night; see `rl.live.upkeep`."""
        from rl.live.upkeep import Upkeep

        await Upkeep(self, journal, changed).run()

    def place(self, situation: Situation) -> Placement:
        """See `actors.situation.SituationPolicy`.

        Raises:
            DataError: a fact is no number; the rules of placement decide then.
        """
        self.killed = situation.killed
        try:
            return self._placed(situation)
        except DataError:
            raise  # of the step, whoever decides
        except Exception:
            self.counts.failures += 1
            raise

    def _placed(self, situation: Situation) -> Placement:
        try:
            live = self._views.build(situation)
        except DataError:
            self.counts.bad_numbers += 1
            raise
        verdict = self._verdict(live, situation)
        step = situation.step
        key = f"{step.workflow_id}/{step.step}/{step.item}/{step.attempt}"
        drawn = Drawn(verdict.chosen, 1.0, (verdict.chosen,))
        if verdict.by != "rules":
            drawn = explore(verdict.chosen, verdict.costs, live.mask, self._exploration, key)
        self.counts.decided[verdict.by] += 1
        facts: dict[str, Any] = {
            "stage": self.standing.stage,
            "mode": "forced" if live.forced else "live",
            "policy_hash": self.standing.policy,
            "fit": self.fit.digest,
            "runs_since": self._today.runs,
            "exploration": self._exploration,
            "parts": parts_of(self._base_of(verdict), live.view, drawn.action, verdict.costs),
        }
        return placement_of(situation, live, verdict, drawn, facts)

    def _base_of(self, verdict: Verdict) -> Base:
        """Whose costs a verdict tells."""
        learned = self._learned
        return learned.base if learned is not None and verdict.by == "learned" else self.base

    def in_order(self, steps: Sequence[StepFacts], at: float) -> Sequence[int]:
        """See `actors.situation.OrderingPolicy`: as whoever decides most would have it."""
        order = self._order()
        if order == "fifo" or len(steps) < 2:
            return range(len(steps))
        views, now = self._views.waiting(steps, at)
        urgency = order if isinstance(order, Urgency) else _URGENT
        value = [math.inf] * len(steps)  # of which a fact is no number, is heard of soon
        for one in views:
            value[one.number] = urgency.of(one, now)
        return sorted(range(len(steps)), key=lambda index: -value[index])

    def _order(self) -> Order:
        if self._learned is not None and self.standing.stage in ("half", "default"):
            return self._learned.order
        return "fifo" if self.standing.base == "rules" else self.base.order

    # ------------------------------------------------------------------ who decides

    def _verdict(self, live: LiveView, situation: Situation) -> Verdict:
        base = self._base(live, situation)
        if self._learned is None or self.standing.stage == "off":
            base.context, base.options = features(live.view, live.mask, base.costs)
            if self.bad_file and decides(
                self.standing, situation.step.workflow_id, situation.step.priority
            ):
                self._fall(base, self.bad_file)
            return base
        learned, why = self._opinion(self._learned, live)
        wanted = decides(self.standing, situation.step.workflow_id, situation.step.priority)
        if learned is None:
            base.context, base.options = features(live.view, live.mask, base.costs)
            if wanted:
                self._fall(base, why)
            return base
        acting, other = (learned, base) if wanted else (base, learned)
        acting.shadow = other.chosen
        acting.scores, acting.outside = learned.scores, why
        if wanted:  # in the shadow nobody has decided in its place
            acting.fallback = acting.fallback or why
        acting.context, acting.options = learned.context, learned.options
        acting.effects = learned.effects
        acting.schema = learned.schema
        return acting

    def _base(self, live: LiveView, situation: Situation) -> Verdict:
        """The tuned policy, or the rules where it may not or cannot decide."""
        mask = live.mask
        costs = self.base.costs(live.view, mask)
        chosen = min(range(STEP_ACTIONS), key=costs.__getitem__)
        if self.standing.base == "tuned" and mask[chosen] and math.isfinite(costs[chosen]):
            return Verdict("tuned", self.base.name, chosen, costs, schema=self._schema)
        found = Verdict(
            "rules", _RULES, self._by_rules(live, situation), costs, schema=self._schema
        )
        if self.standing.base == "tuned":
            self._fall(found, "the expected costs are no numbers")
        return found

    def _opinion(self, learned: Learned, live: LiveView) -> tuple[Verdict | None, str]:
        """What the learned policy would do, and why it would not or could not depart."""
        begun = self._clock()
        try:
            opinion = learned.opinion(live.view, live.mask)
        except (ArithmeticError, IndexError, ValueError) as error:
            self.counts.bad_numbers += 1
            return None, f"the learned policy failed: {type(error).__name__}: {error}"
        self.counts.seconds.append(self._clock() - begun)
        if opinion.context is not None and not np.isfinite(opinion.context).all():
            self.counts.bad_numbers += 1
            return None, "a feature is no number"
        if not live.mask[opinion.action]:
            self.counts.bad_numbers += 1
            return None, f"the learned policy took action {opinion.action}, which is refused"
        name = f"learned {learned.policy.digest[:12]}"
        found = Verdict(
            "learned", name, opinion.action, opinion.costs, scores=opinion.scores,
            context=opinion.context, options=opinion.options, effects=opinion.effects,
            schema=learned.policy.schema or DIGEST,
        )  # fmt: skip
        if opinion.outside:
            self.counts.fallbacks[opinion.outside] += 1
        return found, opinion.outside

    def _by_rules(self, live: LiveView, situation: Situation) -> int:
        """`actors.routing.PlacementPolicy`, within what is allowed."""
        view, mask, step = live.view, live.mask, live.view.step
        assert step is not None
        away = least_loaded(view, mask)
        ready = any(one is not None and one.state == "ready" for one in view.machines)
        options = options_of(situation.has_cloud, ready)
        home = view.home
        figures = {
            "memory_gb": step.memory_mean_gb,
            "expected_seconds": step.home_seconds,
            "free_ram_gb": home.free_gb,
            "ram_percent": 100.0 * (1.0 - home.free_gb / home.memory_gb),
        }
        choice = self._rules.decide(figures, options, mask_of(situation.step.place, options))
        wanted = (HOME, away) if options[choice.index].name == LOCAL else (away, HOME)
        allowed = [action for action in (*wanted, WAIT) if mask[action]]
        return allowed[0] if allowed else mask.index(True)

    def _fall(self, verdict: Verdict, why: str) -> None:
        """Note that another one decides than should."""
        verdict.fallback = why
        self.counts.fallbacks[why] += 1
        if self.counts.fallbacks[why] % _TOLD_EACH == 1:
            logger.warning("%s decides instead: %s", verdict.policy, why)

    # ------------------------------------------------------------------ files

    def _load(self, digest: str) -> Learned | None:
        if self.state_dir is None:
            self.bad_file = "there is no state directory to read the policy from"
            return None
        path = policy_path(self.state_dir, digest)
        try:
            learned = learned_of(path, self._idle_seconds)
        except IroncliwError as error:  # absent, damaged, of another schema
            self.bad_file = str(error)
        else:
            if learned.policy.digest == digest:
                return learned
            self.bad_file = (
                f"policy file {path} has the hash {learned.policy.digest[:12]}, and "
                f"{digest[:12]} was installed; install it again by `ironcliw route promote FILE`"
            )
        logger.error("the learned policy cannot be used: %s", self.bad_file)
        return None

    def _read_fit(self) -> Fit:
        if self.state_dir is None:
            return prior()
        path = self.state_dir / FOLDER / FIT_FILE
        if not path.exists():
            return prior()
        try:
            return load_fit(path)
        except IroncliwError as error:
            logger.error("the fit cannot be used, the shipped priors are: %s", error)
            return prior()
