"""Which zone to ask for a machine, and which to leave alone.

A zone that refused rests for a time that doubles with each refusal in a row. Among the others the
order is: zones that GCE itself named as having room, its advice, and the zone that was used longest
ago. Not the price: it differs by region, and a cluster has one (`cluster.config.cloud_region`
refuses zones of several). No I/O: events and the time go in, an order comes out. Times are aware
and in UTC, since what is known is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from cluster.gce.errors import GceError, Kind
from cluster.machines import region_of
from ironcliw.errors import ClusterError, NewerFormatError

FORMAT_VERSION = 1
LONGEST_SECONDS = 3600.0
"""Without capacity or quota no zone rests longer, unless the first rest is set longer."""
LONGEST_OTHER_SECONDS = 300.0
"""The same after other refusals: they pass soon, or somebody mends them and waits."""
HINT_SECONDS = 600.0
"""How long GCE's word on other zones is believed; Spot capacity changes within minutes."""
SHORT_SECONDS = 20.0
"""First rest after too many calls, no answer, refused credentials, a name in use."""
# a wall clock that was set back makes an old rest look longer than any; more than this is not it
_CLOCK_STEP = timedelta(seconds=60)
# refusals in a row that still double the rest; 2**12 times any rest is more than the longest
_MOST_DOUBLINGS = 12
_EVERYWHERE = "*"

_WHY: dict[Kind, str] = {
    "stockout": "no capacity",
    "quota": "quota of the region used up",
    "rate": "the API is asked too often",
    "name": "name in use",
    "auth": "not allowed",
    "missing": "something the machine needs does not exist",
    "invalid": "request refused",
    "unavailable": "the API did not answer",
    "other": "failed",
}


@dataclass(frozen=True, slots=True)
class _Rest:
    """Why, until when, how long in all, and after how many refusals in a row."""

    kind: Kind
    code: str
    until: datetime
    seconds: float
    failures: int

    def holds(self, now: datetime) -> bool:
        remaining = self.until - now
        return timedelta() < remaining <= timedelta(seconds=self.seconds) + _CLOCK_STEP

    def __str__(self) -> str:
        rows = "" if self.failures == 1 else f", {self.failures} times in a row"
        code = f" ({self.code})" if self.code else ""
        return f"{_WHY[self.kind]}{code}{rows}; asked again after {self.until:%Y-%m-%d %H:%M:%SZ}"


class ZoneBook:
    """What is known of the zones of a cluster; not locked, one thread at a time.

    Args:
        zones: Those that may be used, in the order that decides between equals.
        cooldown_seconds: First rest of a zone without capacity.
    """

    def __init__(self, zones: Sequence[str], cooldown_seconds: float) -> None:
        self._zones = tuple(dict.fromkeys(zones))
        self._cooldown = cooldown_seconds
        # by scope: a zone, a region, or everywhere
        self._rests: dict[str, _Rest] = {}
        self._hints: dict[str, datetime] = {}
        self._used: dict[str, datetime] = {}

    def order(self, now: datetime, advice: Mapping[str, float]) -> list[str]:
        """Zones to ask, best first; those that rest are not in it.

        Args:
            now: Aware and in UTC.
            advice: Likelihood from 0 to 1 of getting a machine, by zone; may be empty. A
                difference below a tenth is taken for noise; unknown is one half.
        """
        awake = [zone for zone in self._zones if self._resting(now, zone) is None]

        def key(zone: str) -> tuple[bool, float, bool, float]:
            hint = self._hints.get(zone)
            used = self._used.get(zone)
            return (
                hint is None or not now <= hint <= now + timedelta(seconds=HINT_SECONDS),
                -round(_finite(advice.get(zone), 0.5), 1),
                used is not None,
                used.timestamp() if used else 0.0,
            )

        return sorted(awake, key=key)

    def failed(self, now: datetime, zone: str, error: GceError) -> None:
        """An insert in the zone was refused: it rests, or its region, or all zones do."""
        scope, first = self._scope(zone, error.kind)
        before = self._rests.get(scope)
        failures = before.failures + 1 if before else 1
        if before and before.holds(now):
            # another insert was on its way when the rest began: the same refusal twice
            failures = before.failures
        longest = LONGEST_SECONDS if error.kind in ("stockout", "quota") else LONGEST_OTHER_SECONDS
        doubled = first * 2 ** min(failures - 1, _MOST_DOUBLINGS)
        seconds = min(doubled, max(first, longest))
        until = now + timedelta(seconds=seconds)
        if not (before and before.holds(now) and before.until > until):
            self._rests[scope] = _Rest(error.kind, error.code, until, seconds, failures)
        self._hints.pop(zone, None)
        for hinted in error.zones_available:
            if hinted in self._zones and hinted != zone:
                self._hints[hinted] = now + timedelta(seconds=HINT_SECONDS)

    def succeeded(self, now: datetime, zone: str) -> None:
        """The zone gave a machine: what was held against it, its region and the API is over."""
        for scope in (zone, region_of(zone), _EVERYWHERE):
            self._rests.pop(scope, None)
        self._used[zone] = now

    def reasons(self, now: datetime) -> dict[str, str]:
        """Why a zone is not asked now, by zone; those that may be asked are not in it."""
        found = ((zone, self._resting(now, zone)) for zone in self._zones)
        return {zone: str(rest) for zone, rest in found if rest is not None}

    def to_json(self) -> dict[str, Any]:
        """All that is known, as JSON has it."""
        rests = {
            scope: {
                "kind": rest.kind,
                "code": rest.code,
                "until": rest.until.isoformat(),
                "seconds": rest.seconds,
                "failures": rest.failures,
            }
            for scope, rest in self._rests.items()
        }
        return {
            "format_version": FORMAT_VERSION,
            "rests": rests,
            "hints": {zone: until.isoformat() for zone, until in self._hints.items()},
            "used": {zone: at.isoformat() for zone, at in self._used.items()},
        }

    @classmethod
    def from_json(
        cls, state: Mapping[str, Any], zones: Sequence[str], cooldown_seconds: float
    ) -> ZoneBook:
        """The book that `to_json` wrote; zones that are no longer used are kept, and not offered.

        Raises:
            NewerFormatError: a newer release wrote it.
            ClusterError: it is damaged.
        """
        version = state.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise NewerFormatError(
                f"the zones' state has format {version}, this release reads up to "
                f"{FORMAT_VERSION}: install the release that wrote it"
            )
        book = cls(zones, cooldown_seconds)
        try:
            book._rests = {scope: _rest(fields) for scope, fields in state["rests"].items()}
            book._hints = {zone: _time(text) for zone, text in state["hints"].items()}
            book._used = {zone: _time(text) for zone, text in state["used"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ClusterError(
                f"the zones' state is damaged ({type(error).__name__}: {error}); delete it, and "
                "the zones are asked as if for the first time"
            ) from error
        return book

    def _scope(self, zone: str, kind: Kind) -> tuple[str, float]:
        """What rests after an error of that class, and for how many seconds at first."""
        match kind:
            case "quota":
                return region_of(zone), self._cooldown
            case "rate" | "unavailable" | "auth":
                return _EVERYWHERE, SHORT_SECONDS
            case "name":
                return zone, SHORT_SECONDS
        return zone, self._cooldown

    def _resting(self, now: datetime, zone: str) -> _Rest | None:
        """The rest that lasts longest of those that cover the zone."""
        holding = list(self._holding(now, zone))
        return max(holding, key=lambda rest: rest.until) if holding else None

    def _holding(self, now: datetime, zone: str) -> Iterator[_Rest]:
        for scope in (zone, region_of(zone), _EVERYWHERE):
            rest = self._rests.get(scope)
            if rest is not None and rest.holds(now):
                yield rest


def _finite(value: float | None, otherwise: float) -> float:
    return value if value is not None and isfinite(value) else otherwise


def _rest(fields: Mapping[str, Any]) -> _Rest:
    kind = fields["kind"]
    if kind not in _WHY:
        raise ValueError(f"kind {kind!r} is not known")
    return _Rest(
        kind,
        str(fields["code"]),
        _time(fields["until"]),
        float(fields["seconds"]),
        int(fields["failures"]),
    )


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return time
