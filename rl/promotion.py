"""When a learned policy may decide, and when it may not any more: a state machine without I/O.

    off -> shadow -> canary -> half -> default
     ^________________ any alarm _______|

In the shadow it is only asked. As a canary it decides for a tenth of the workflows of low
priority, then for half of all, then for all. It goes up when what was logged says with confidence
that it saves money, the simulator's replay agrees, and the replay fits the log at all. An alarm
takes it off at once: the tuned policy decides then, and where that one raises alarms, the rules of
placement. What a week cost beside the tuned policy says nothing against that one, so it takes the
learned policy off and goes no further. The figures are those of the shared notes, section 5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ironcliw.errors import ConflictError, DataError

Stage = Literal["off", "shadow", "canary", "half", "default"]
Base = Literal["tuned", "rules"]
STAGES: tuple[Stage, ...] = ("off", "shadow", "canary", "half", "default")
SHARES: Mapping[Stage, float] = {
    "off": 0.0, "shadow": 0.0, "canary": 0.1, "half": 0.5, "default": 1.0,
}  # fmt: skip
LEAST_DECISIONS = 1000
LEAST_SECONDS = 14 * 86_400.0
"""Either is enough: a stage lasts until so many decisions, or for so long."""
LEAST_WORKFLOWS = 100
"""For which it must have decided itself in a stage in which it decides at all."""
MOST_OUT_OF_MEMORY = 1
MOST_COST_RATIO = 1.05
MOST_FAILURES = 10
BREACH = "a cap on money was passed"
"""Begins the reason of a change that was made because of it."""
_KEPT = 50
_OLD_TUNED = "greedy"  # what releases before called the tuned policy, whichever it was


@dataclass(frozen=True, slots=True)
class Change:
    """That the stage or the base changed.

    Attributes:
        at: Unix seconds.
        to: `shadow`, ... or `tuned`, `rules`.
        reason: In words.
    """

    at: float
    to: str
    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a learned policy stands.

    Attributes:
        stage: Where it may decide.
        base: What decides elsewhere.
        policy: Digest of its file; empty: there is none.
        since: Unix seconds, when the stage began.
        waits_for: What the next stage lacks, as the last evidence had it.
        changes: The newest last.
    """

    stage: Stage = "off"
    base: Base = "tuned"
    policy: str = ""
    since: float = 0.0
    waits_for: str = ""
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a stage when it is looked at.

    Attributes:
        at: Unix seconds.
        decisions: For which it was asked in this stage.
        gain: (low, high) of the interval of USD that it saves a decision; None: no verdict.
        no_verdict: Why there is none.
        replay_gain: USD a day that it saves in the simulator; None: not simulated.
        misfit: Why the simulator does not fit the log; empty: it does.
        workflows: For which it has decided itself in this stage.
        stage_gain: As `gain`, by what was logged in this stage alone; None: no verdict.
    """

    at: float
    decisions: int
    gain: tuple[float, float] | None = None
    no_verdict: str = "nothing was evaluated"
    replay_gain: float | None = None
    misfit: str = ""
    workflows: int = 0
    stage_gain: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Signs:
    """What has been seen of the running system since the standing changed last.

    Attributes:
        at: Unix seconds.
        breaches: Days and months whose cap was passed, such as `2027-01`, and that have not led
            to a change before.
        out_of_memory: Steps that were ended for want of memory, in the last 24 hours.
        cost_ratio: What the last seven days cost by what the tuned policy would have, the lower
            end of the interval; None: not known.
        bad_numbers: Decisions with a feature that is no number.
        slow: Whether it decides in more than five milliseconds.
        bad_file: Why its file cannot be used; empty: it can.
        failures: Decisions in which the router failed, so that the rules of placement decided.
    """

    at: float
    breaches: tuple[str, ...] = ()
    out_of_memory: int = 0
    cost_ratio: float | None = None
    bad_numbers: int = 0
    slow: bool = False
    bad_file: str = ""
    failures: int = 0


def install(standing: Standing, policy: str, at: float) -> Standing:
    """A new policy begins in the shadow, whatever the last one had reached.

    Args:
        standing: Of now.
        policy: Digest of its file.
        at: Unix seconds.
    """
    found = replace(standing, policy=policy, base="tuned")
    return _moved(found, "shadow", at, f"policy {policy[:12]} was installed")


def advance(standing: Standing, evidence: Evidence) -> Standing:
    """One stage up, if the evidence allows it; else the same, saying what it lacks."""
    if standing.stage in ("off", "default"):
        return replace(standing, waits_for="")
    lacking = _lacking(standing, evidence)
    if lacking:
        return replace(standing, waits_for=lacking)
    assert evidence.gain is not None
    after = STAGES[STAGES.index(standing.stage) + 1]
    reason = (
        f"it saves {evidence.gain[0]:.4f} to {evidence.gain[1]:.4f} USD a decision by the log, "
        f"{evidence.replay_gain or 0.0:.3f} USD a day in the simulator"
    )
    return _moved(standing, after, evidence.at, reason)


def promoted(standing: Standing, at: float) -> Standing:
    """One stage up because somebody asks for it.

    Raises:
        ConflictError: there is no policy, or it has the last stage.
    """
    if not standing.policy:
        raise ConflictError("no policy is installed; give its file: `ironcliw route promote FILE`")
    if standing.stage == "default":
        raise ConflictError(f"policy {standing.policy[:12]} decides everywhere already")
    after = STAGES[STAGES.index(standing.stage) + 1]
    return _moved(standing, after, at, "by its owner")


def watch(standing: Standing, signs: Signs) -> Standing:
    """After a look at the system: the same, or rolled back.

    What is wrong with the learned policy itself and what is wrong with the system are judged each
    by itself: a damaged file of the one must not hide that the other passes its caps.
    """
    decided = SHARES[standing.stage] > 0
    own, systems = _own_alarm(signs), _systems_alarm(signs)
    found = standing
    if standing.stage != "off" and own:
        found = _moved(found, "off", signs.at, own)
    elif decided and (alarm := systems or _dear(signs)):
        found = _moved(found, "off", signs.at, alarm)
    if systems and not decided and standing.base == "tuned":
        found = _based(found, "rules", signs.at, systems)
    return found


def rolled_back(standing: Standing, at: float, reason: str = "by its owner") -> Standing:
    """One down the ladder: a learned policy off, then the tuned one.

    Raises:
        ConflictError: the rules decide already.
    """
    if standing.stage != "off":
        return _moved(standing, "off", at, reason)
    if standing.base == "tuned":
        return _based(standing, "rules", at, reason)
    raise ConflictError("the rules of placement decide already; there is nothing below them")


def begun_anew(at: float) -> Standing:
    """In place of a standing that cannot be read: nothing is installed, the tuned one decides."""
    reason = "by its owner, in place of a state of another release"
    return _moved(Standing(), "off", at, reason)


def restored(standing: Standing, at: float) -> Standing:
    """The tuned policy decides again where the rules did."""
    return standing if standing.base == "tuned" else _based(standing, "tuned", at, "by its owner")


def alarm_of(signs: Signs) -> str:
    """Why a learned policy must not decide any more; empty: nothing is wrong."""
    return _own_alarm(signs) or _systems_alarm(signs) or _dear(signs)


def was_told(standing: Standing, window: str) -> bool:
    """Whether that day's or month's cap, once passed, has led to a change already."""
    return any(
        one.reason.startswith(BREACH) and window in one.reason.removeprefix(BREACH).split()
        for one in standing.changes
    )


def decides(standing: Standing, workflow_id: str, priority: str) -> bool:
    """Whether the learned policy decides for a workflow; always the same for the same one."""
    share = SHARES[standing.stage]
    if not standing.policy or share <= 0:
        return False
    if standing.stage == "canary" and priority != "low":
        return False
    return fraction(workflow_id) < share


def fraction(text: str) -> float:
    """A number in [0, 1) that belongs to a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def to_json(standing: Standing) -> dict[str, Any]:
    """For the state store."""
    return asdict(standing)


def from_json(page: Mapping[str, Any]) -> Standing:
    """From the state store.

    Raises:
        DataError: it is none of this release's.
    """
    try:
        values = dict(page)
        changes: Sequence[Mapping[str, Any]] = values.pop("changes")
        if values.get("base") == _OLD_TUNED:
            values["base"] = "tuned"
        found = Standing(**values, changes=tuple(_change_of(one) for one in changes))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"the state of routing in the store is of another release: {error}; "
            "`ironcliw route rollback` writes it anew"
        ) from error
    if found.stage not in STAGES or found.base not in ("tuned", "rules"):
        raise DataError(f"the state of routing names stage {found.stage!r}, base {found.base!r}")
    return found


def _change_of(page: Mapping[str, Any]) -> Change:
    found = Change(**page)
    return replace(found, to="tuned") if found.to == _OLD_TUNED else found


def _own_alarm(signs: Signs) -> str:
    """What is wrong with the learned policy alone, which the shadow can have, too."""
    if signs.bad_file:
        return signs.bad_file
    if signs.bad_numbers:
        return f"{signs.bad_numbers} decisions had features that are no numbers"
    return "it decides in more than 5 ms" if signs.slow else ""


def _systems_alarm(signs: Signs) -> str:
    """What is wrong with the system, whoever decides in it."""
    if signs.breaches:
        return f"{BREACH}: {' '.join(signs.breaches)}"
    if signs.out_of_memory > MOST_OUT_OF_MEMORY:
        return f"{signs.out_of_memory} steps ran out of memory within a day"
    if signs.failures > MOST_FAILURES:
        return f"{signs.failures} decisions failed, as the head's log tells"
    return ""


def _dear(signs: Signs) -> str:
    """That it costs more than the tuned policy would, which is no fault of the tuned one."""
    if signs.cost_ratio is None or signs.cost_ratio <= MOST_COST_RATIO:
        return ""
    return f"seven days cost at least {signs.cost_ratio:.2f} times what the tuned policy would have"


def _lacking(standing: Standing, evidence: Evidence) -> str:
    seconds = evidence.at - standing.since
    if evidence.decisions < LEAST_DECISIONS and seconds < LEAST_SECONDS:
        return (
            f"{evidence.decisions} decisions in {seconds / 86_400:.1f} days; it takes "
            f"{LEAST_DECISIONS}, or {LEAST_SECONDS / 86_400:.0f} days"
        )
    if SHARES[standing.stage] > 0 and evidence.workflows < LEAST_WORKFLOWS:
        return (
            f"it has decided for {evidence.workflows} workflows in this stage; it takes "
            f"{LEAST_WORKFLOWS}"
        )
    if evidence.misfit:
        return f"the simulator does not fit the log: {evidence.misfit}"
    if evidence.gain is None:
        return f"no verdict: {evidence.no_verdict}"
    low, high = evidence.gain
    if not low > 0:
        return f"what it saves a decision lies between {low:.4f} and {high:.4f} USD, not above 0"
    if evidence.stage_gain is not None and evidence.stage_gain[1] < 0:
        low, high = evidence.stage_gain
        return f"in this stage it costs {-high:.4f} to {-low:.4f} USD a decision more"
    if evidence.replay_gain is None:
        return "it was not simulated"
    if not evidence.replay_gain > 0:
        return f"in the simulator it costs {-evidence.replay_gain:.3f} USD a day more"
    return ""


def _moved(standing: Standing, stage: Stage, at: float, reason: str) -> Standing:
    changes = (*standing.changes, Change(at, stage, reason))[-_KEPT:]
    return replace(standing, stage=stage, since=at, waits_for="", changes=changes)


def _based(standing: Standing, base: Base, at: float, reason: str) -> Standing:
    changes = (*standing.changes, Change(at, base, reason))[-_KEPT:]
    return replace(standing, base=base, changes=changes)
