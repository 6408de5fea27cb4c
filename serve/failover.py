"""Decides where a request runs: at home or in the cloud, and where next if that fails. No I/O.

    want, failures -> next -> Attempt(side, deadline, degraded) | Wait(until) | GiveUp(reason)

The state of the cloud's side, `spot`, as the requests see it:

    ASLEEP --wanted--> WAKING --heard--> AWAKE --lost, or not heard for a while--> WAKING
                          ^                 |
                          |                 +--silent--> RESTING (2, 4, ... 30 s) --wanted--> WAKING
                          +-----------------------------------------------------------(probe)--+

Only AWAKE takes requests. In WAKING the shell asks `spot` who is there; the question itself makes
Serve start a replica where there is none. So a side that was lost, silent or idle is never trusted
with a request before it has answered something cheap.

Seconds are the caller's clock, which must not go back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serve.failover_terms import Attempt, Ending, Failure, GiveUp, Phase, Side, Wait, Want

FIRST_REST_SECONDS = 2.0
LONGEST_REST_SECONDS = 30.0
FRESH_SECONDS = 5.0
"""A side that was not heard for so long is asked first: Serve may have ended its last replica."""
ASK_SECONDS = 1.0
"""A request waits so long for the answer of a side that was awake a moment ago."""
PATIENCE_SECONDS = 600.0
"""A side that nobody wanted for so long is no longer waited for."""
UNABLE_SECONDS = 30.0
LOADING_SECONDS = 1.0
_LAST_WORD_SECONDS = 0.1  # kept of a deadline to say why there was no answer
_LOCAL_SHARE = 1 / 3  # of the time that is left: kept for a last attempt at home
_TYPICAL_WAKE_SECONDS = 90.0
_MOST_FAILURES = 3  # of one request in the cloud: it may be what takes the replicas down
_FINAL = (Ending.OVERLOADED, Ending.UNABLE, Ending.SLOW)
_HARMLESS = (Ending.LOADING, Ending.WITHDRAWN)


@dataclass(frozen=True, slots=True)
class _Obstacle:
    reason: str
    until: float = math.inf  # when it may be over by itself
    hopeless: bool = False


class FailoverPolicy:
    """The state of the cloud's side, and the rules."""

    def __init__(self) -> None:
        self.phase = Phase.ASLEEP
        self.since = -math.inf
        self._heard_at = -math.inf
        self._wanted_at = -math.inf
        self._ask_until = -math.inf
        self._probing = False  # WAKING after a rest: no answer means another rest
        self._rest = FIRST_REST_SECONDS
        self._rest_until = -math.inf
        self._asleep_since: float | None = None
        self._wake_seconds = _TYPICAL_WAKE_SECONDS
        self._models: dict[str, _Obstacle] = {}

    def next(
        self, now: float, want: Want, failures: Sequence[Failure] = ()
    ) -> Attempt | Wait | GiveUp:
        """What to do for a request whose attempts so far have failed so.

        May change the phase to WAKING: see `asks`.
        """
        if now >= want.deadline:
            return GiveUp("the deadline has passed", 1.0)
        if want.placement == "local" or (want.placement == "auto" and want.fits_local):
            return self._home_first(now, want, failures)
        return self._spot_first(now, want, failures)

    @property
    def asks(self) -> bool:
        """Whether the shell shall ask the side for an answer, until `heard` or `unanswered`."""
        return self.phase is Phase.WAKING

    def heard(self, now: float) -> None:
        """The side answered something, or sent a part of an answer."""
        if self.phase is Phase.RESTING:
            return  # one of its replicas, but not all: the rest is not shortened
        self._heard_at = now
        if self.phase is not Phase.AWAKE:
            if self._asleep_since is not None:
                self._wake_seconds = now - self._asleep_since
            self._enter(Phase.AWAKE, now)
            self._asleep_since = None

    def worked(self, now: float) -> None:
        """The side answered a request."""
        self.heard(now)
        if self.phase is Phase.AWAKE:
            self._rest = FIRST_REST_SECONDS

    def unanswered(self, now: float) -> None:
        """The shell asked, and nobody said anything for as long as an attempt may take."""
        if self.phase is not Phase.WAKING:
            return
        if self._probing:
            self._start_rest(now)
        elif now - self._wanted_at > PATIENCE_SECONDS:
            self._enter(Phase.ASLEEP, now)

    def failed(self, now: float, model: str, failure: Failure, began: float) -> None:
        """An attempt of a request that began then gave no answer; may be told many times."""
        if failure.side is Side.LOCAL:
            return
        if failure.ending is Ending.LOADING:
            self._models[model] = _Obstacle(failure.why, now + LOADING_SECONDS)
        elif failure.ending is Ending.UNABLE:
            self._models[model] = _Obstacle(failure.why, now + UNABLE_SECONDS, hopeless=True)
        elif self.phase is not Phase.AWAKE or began < self.since:
            return  # it says nothing about the side as it is now
        elif failure.ending is Ending.LOST:
            self._ask(now, ask_until=now + ASK_SECONDS)
        elif failure.ending is Ending.SILENT:
            self._start_rest(now)

    def reason(self, now: float) -> str | None:
        """Why the side takes no requests; None where it does, or nobody wants it."""
        if self.phase is Phase.WAKING:
            return f"spot is waking for {now - self.since:.0f} s"
        if self.phase is Phase.RESTING:
            left = max(0.0, self._rest_until - now)
            return f"spot did not answer in time and rests for {left:.0f} s"
        return None

    def _home_first(
        self, now: float, want: Want, failures: Sequence[Failure]
    ) -> Attempt | Wait | GiveUp:
        at_home = _last(failures, Side.LOCAL)
        if at_home is None:
            return Attempt(Side.LOCAL, want.deadline)
        if want.placement != "local" and _last(failures, Side.SPOT) is None:
            obstacle = self._obstacle(now, want.model)
            if obstacle is None:
                overloaded = at_home.ending is Ending.OVERLOADED
                return Attempt(Side.SPOT, want.deadline, None if overloaded else at_home.why)
            if now < self._ask_until:
                return Wait(min(self._ask_until, want.deadline))
        return GiveUp(at_home.why, self._retry_after(now))

    def _spot_first(
        self, now: float, want: Want, failures: Sequence[Failure]
    ) -> Attempt | Wait | GiveUp:
        in_cloud = _last(failures, Side.SPOT)
        may_try = _may_try_spot(failures, want)
        obstacle = self._obstacle(now, want.model)
        if may_try and obstacle is None:
            share = _LOCAL_SHARE if want.fits_local else 0.0
            return Attempt(Side.SPOT, want.deadline - share * (want.deadline - now))
        if may_try and now < self._ask_until:
            return Wait(min(self._ask_until, want.deadline))
        why = obstacle.reason if obstacle else ""
        if in_cloud is not None and not (may_try and obstacle):
            why = in_cloud.why
        if want.fits_local:
            if _last(failures, Side.LOCAL) is None:
                return Attempt(Side.LOCAL, want.deadline, why)
            return GiveUp(why, self._retry_after(now))
        end = want.deadline - _LAST_WORD_SECONDS
        if not may_try or obstacle is None or obstacle.hopeless or now >= end:
            by_state = may_try and obstacle is not None
            return GiveUp(why, self._retry_after(now), by_state)
        return Wait(min(end, obstacle.until))

    def _obstacle(self, now: float, model: str) -> _Obstacle | None:
        """Why the side cannot be asked for this model now; wakes it."""
        self._wanted_at = now
        if self.phase is Phase.ASLEEP:
            self._asleep_since = now
            self._ask(now, ask_until=now)
        elif self.phase is Phase.AWAKE and now - self._heard_at > FRESH_SECONDS:
            self._ask(now, ask_until=now + ASK_SECONDS)
        elif self.phase is Phase.RESTING and now >= self._rest_until:
            self._ask(now, ask_until=now + ASK_SECONDS, probing=True)
        if self.phase is Phase.WAKING:
            return _Obstacle("spot is waking")
        if self.phase is Phase.RESTING:
            return _Obstacle("spot rests, it did not answer in time", self._rest_until)
        found = self._models.get(model)
        if found is not None and now >= found.until:
            del self._models[model]
            return None
        return found

    def _ask(self, now: float, *, ask_until: float, probing: bool = False) -> None:
        self._enter(Phase.WAKING, now)
        self._ask_until = ask_until
        self._probing = probing

    def _start_rest(self, now: float) -> None:
        self._enter(Phase.RESTING, now)
        self._rest_until = now + self._rest
        self._rest = min(2 * self._rest, LONGEST_REST_SECONDS)

    def _enter(self, phase: Phase, now: float) -> None:
        self._ask_until = now
        self.phase = phase
        self.since = now

    def _retry_after(self, now: float) -> float:
        if self.phase is Phase.RESTING:
            return max(1.0, self._rest_until - now)
        if self.phase is Phase.WAKING:
            return max(2.0, self._wake_seconds - (now - self.since))
        return 1.0


def _last(failures: Sequence[Failure], side: Side) -> Failure | None:
    return next((one for one in reversed(failures) if one.side is side), None)


def _may_try_spot(failures: Sequence[Failure], want: Want) -> bool:
    """Whether a request whose attempts have failed so may go to the cloud (again)."""
    endings = [one.ending for one in failures if one.side is Side.SPOT]
    if endings and endings[-1] in _FINAL:
        return False
    tried = sum([ending not in _HARMLESS for ending in endings])
    return tried < (_MOST_FAILURES - 1 if want.fits_local else _MOST_FAILURES)
