"""What a regime file may say: ranges from which days are drawn.

A regime is a TOML file; `rl/regimes/` holds those that the project trains and tests with. Anyone
may write another and give it to `python -m rl evaluate --regime FILE`. A range is `[low, high]`,
drawn anew each day. Money is in US dollars, memory in GB, times in the unit of the name.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ironcliw.errors import SettingsError

# of the head, beside the user's: 1.5 stay free, and a private step needs a place
LEAST_ROOM_GB = 2.0
Shape = Literal["answer", "ingest", "train", "analysis", "drafts", "trace"]


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if low > high:
        raise ValueError(f"the range [{low:g}, {high:g}] ends before it begins; swap its ends")
    return value


def _positive(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] <= 0:
        raise ValueError(f"the range [{value[0]:g}, {value[1]:g}] must lie above 0")
    return value


def _not_negative(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] < 0:
        raise ValueError(f"the range [{value[0]:g}, {value[1]:g}] must not lie below 0")
    return value


def _shares(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] < 0 or value[1] > 1:
        raise ValueError(f"the range [{value[0]:g}, {value[1]:g}] must lie between 0 and 1")
    return value


def _below(most: float) -> AfterValidator:
    """Beyond such a value a day would be no day: too long to simulate, or its figures infinite."""

    def check(value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > most:
            raise ValueError(f"the range [{value[0]:g}, {value[1]:g}] must not go above {most:g}")
        return value

    return AfterValidator(check)


def _from(least: float) -> AfterValidator:
    def check(value: tuple[float, float]) -> tuple[float, float]:
        if value[0] < least:
            raise ValueError(f"the range [{value[0]:g}, {value[1]:g}] must not go below {least:g}")
        return value

    return AfterValidator(check)


Range = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_not_negative)]
Above = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_positive)]
Share = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_shares)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )


class Arrivals(_Section):
    """When workflows come: sessions of somebody at work, or a real trace stretched to a day."""

    source: Literal["sessions", "poisson", "azure_code", "azure_conv", "mooncake"] = "sessions"
    workflows_per_day: Above = (12.0, 20.0)
    session_workflows: float = Field(6.0, ge=1, le=5000, description="Mean of a session.")
    gap_seconds: float = Field(75.0, gt=0, le=86_400, description="Median gap within a session.")
    gap_sigma: float = Field(1.1, ge=0, le=3, description="Deviation of the gap's logarithm.")
    active_hours: Annotated[tuple[float, float], AfterValidator(_ordered)] = (8.0, 23.0)

    @model_validator(mode="after")
    def _within_a_day(self) -> Arrivals:
        begin, end = self.active_hours
        if begin < 0 or end > 24 or begin == end:
            raise ValueError(f"active_hours [{begin:g}, {end:g}] must be a part of 0 to 24")
        if self.workflows_per_day[1] > 5000:
            raise ValueError("workflows_per_day above 5000 would not be simulated in a useful time")
        return self


class Estimates(_Section):
    """How far what the scheduler believes lies from the truth (deviation of the logarithm)."""

    duration_sigma: Annotated[Range, _below(3.0)] = (0.25, 0.45)
    memory_sigma: Annotated[Range, _below(3.0)] = (0.08, 0.15)


class Home(_Section):
    """The head: its memory, its cores, and what its user takes of the memory."""

    memory_gb: float = Field(16.0, gt=0, le=4096)
    cores: float = Field(8.0, ge=0.1, le=1024)
    user_gb: Range = (5.0, 9.5)
    user_change_seconds: float = Field(
        1200.0, ge=10, le=1e6, description="Mean time between changes."
    )
    swap_gb: float = Field(
        3.0, ge=0, le=4096, description="Beyond the memory; more ends the last step."
    )

    @model_validator(mode="after")
    def _leaves_room(self) -> Home:
        if self.user_gb[1] + LEAST_ROOM_GB > self.memory_gb:
            raise ValueError(
                f"user_gb up to {self.user_gb[1]:g} leaves less than {LEAST_ROOM_GB:g} GB of "
                f"memory_gb {self.memory_gb:g} for the steps"
            )
        return self


class Spot(_Section):
    """Machines that are bought by the second and may be taken back."""

    memory_gb: float = Field(30.0, gt=0, le=4096, description="What steps may use of it.")
    cores: float = Field(4.0, ge=0.1, le=1024)
    machines: int = Field(3, ge=0, le=3, description="At most at once.")
    dollars_per_hour: float = Field(0.0638, gt=0, le=1000, description="e2-highmem-4, us-central1.")
    hazard_per_hour: Range = (0.003, 0.1)
    outages_per_day: Range = (0.0, 1.0)
    outage_minutes: float = Field(40.0, gt=0, le=10_000)
    stockout: Share = (0.0, 0.25)
    boot_seconds: Annotated[Above, _below(7200.0)] = (70.0, 110.0)
    boot_sigma: float = Field(0.25, ge=0, le=2)
    speed_sigma: float = Field(0.1, ge=0, le=0.5, description="Between machines.")
    slowdown: Annotated[Above, _from(0.01), _below(100.0)] = (0.7, 1.4)
    megabytes_per_second: Annotated[Above, _from(0.01), _below(1e6)] = (2.0, 10.0)
    notice_seconds: float = Field(30.0, ge=0, le=600)

    @model_validator(mode="after")
    def _of_this_world(self) -> Spot:
        for name, most in (("hazard_per_hour", 60.0), ("outages_per_day", 100.0)):
            if getattr(self, name)[1] > most:
                raise ValueError(f"{name} above {most:g} would leave no machine; lower it")
        return self


class Deadlines(_Section):
    """A workflow's deadline is a grace plus its shortest possible time, times the slack."""

    slack: Annotated[Above, _below(1000.0)] = (1.6, 5.0)
    grace_seconds: Annotated[Range, _below(1e6)] = (30.0, 150.0)


class Costs(_Section):
    """What is weighed against what."""

    hour_of_priority: float = Field(
        0.30, gt=0, le=1e6, description="Dollars an hour of waiting, times it."
    )
    miss: float = Field(
        0.10, ge=0, le=1e6, description="Dollars for a missed deadline, times priority."
    )
    day_dollars: float = Field(0.40, ge=0, le=1e9, description="Cap on machines a day.")
    month_dollars: float = Field(12.0, ge=0, le=1e9, description="And a month.")


class Regime(_Section):
    """A family of days."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    trained: bool = Field(True, description="False: held out as a whole, for tests alone.")
    mix: dict[Shape, Annotated[float, Field(ge=0)]] = {
        "answer": 0.4,
        "ingest": 0.22,
        "train": 0.16,
        "analysis": 0.12,
        "drafts": 0.1,
    }
    arrivals: Arrivals = Arrivals()
    estimates: Estimates = Estimates()
    home: Home = Home()
    spot: Spot = Spot()
    deadlines: Deadlines = Deadlines()
    costs: Costs = Costs()

    @model_validator(mode="after")
    def _has_work(self) -> Regime:
        if not any(self.mix.values()):
            raise ValueError("mix: at least one share must be above 0")
        return self

    @property
    def needs_traces(self) -> bool:
        """Whether days are made from files of the data folder (setting `bench.data`)."""
        from_trace = self.arrivals.source not in ("sessions", "poisson")
        return from_trace or self.mix.get("trace", 0.0) > 0

    def digest(self) -> str:
        """SHA-256 of every value, the defaults too: equal digests draw equal days."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def regime_of(values: dict[str, Any], where: str) -> Regime:
    """A regime from parsed TOML.

    Raises:
        SettingsError: a value is unknown, absent or impossible; names every one.
    """
    try:
        return Regime.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'the file'}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            + ("" if item["type"] in ("missing", "value_error") else f" (given {item['input']!r})")
            for item in error.errors()
        )
        raise SettingsError(f"{where} is no regime: {problems}; see rl/regime.py") from error


def load_regime(path: Path) -> Regime:
    """A regime from its file.

    Raises:
        SettingsError: the file is absent, no TOML or holds impossible values.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return regime_of(values, str(path))
