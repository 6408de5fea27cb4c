"""Fault scripts: how they are read, when they begin and end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cluster.testing.fault_plan import Event, FaultPlan
from cluster.testing.faults import (
    ApiStorm,
    CutLink,
    Fault,
    Hook,
    Preempt,
    Stockout,
    load_faults,
    parse_faults,
)
from ironcliw.errors import SettingsError

SCRIPT = """
[[fault]]
kind = "stockout"
zone = "us-central1-a"
seconds = 60
hint = ["us-central1-f"]

[[fault]]
kind = "preempt"
when = "running"
at = 5
notice = 30
"""


def event(kind: str, at: float = 0.0, zone: str = "z-a", name: str = "vm-1") -> Event:
    return Event(at, kind, zone, name)  # type: ignore[arg-type]


class TestScripts:
    def test_toml(self, tmp_path: Path) -> None:
        (tmp_path / "faults.toml").write_text(SCRIPT)
        assert load_faults(tmp_path / "faults.toml") == (
            Stockout(zone="us-central1-a", seconds=60, hint=("us-central1-f",)),
            Preempt(when="running", at=5, notice=30),
        )

    def test_json(self, tmp_path: Path) -> None:
        text = json.dumps({"fault": [{"kind": "api_storm", "status": 500, "times": 3}]})
        (tmp_path / "faults.json").write_text(text)
        assert load_faults(tmp_path / "faults.json") == (ApiStorm(status=500, times=3),)

    @pytest.mark.parametrize(
        ("fault", "match"),
        [
            ({"kind": "stokout"}, "'stokout'.*does not match any of the expected tags.*'stockout'"),
            ({}, "discriminator 'kind'"),
            ({"kind": "stockout", "zones": "x"}, r"fault 0\.stockout\.zones: Unexpected"),
            ({"kind": "stockout", "at": -1}, r"0\.stockout\.at: Input should be greater"),
            ({"kind": "hook"}, r"0\.hook\.label: Field required"),
            ({"kind": "preempt", "when": "dinner"}, r"0\.preempt\.when: Input should be 'insert'"),
        ],
    )
    def test_what_is_no_fault_is_named(self, fault: dict[str, object], match: str) -> None:
        with pytest.raises(SettingsError, match=match):
            parse_faults([fault])

    @pytest.mark.parametrize(
        ("name", "text", "match"),
        [
            ("f.toml", "[[fault]\n", "cannot read the faults of .*f.toml"),
            ("f.json", "{", "cannot read the faults of .*f.json"),
            ("f.toml", "[fault]\n", "must hold .*fault.* tables"),
            ("f.toml", "[[faults]]\n", "must hold .*fault.* tables"),
            ("f.json", "[]", "must hold .*fault.* tables"),
        ],
    )
    def test_what_is_no_script_is_named(
        self, tmp_path: Path, name: str, text: str, match: str
    ) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(SettingsError, match=match):
            load_faults(tmp_path / name)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"cannot read the faults of .*none\.toml"):
            load_faults(tmp_path / "none.toml")


class TestPlan:
    def test_a_window(self) -> None:
        plan = FaultPlan([Stockout(at=10, seconds=5)], start=100)
        active = [plan.active(Stockout, now) is not None for now in (109.9, 110, 114.9, 115)]
        assert active == [False, True, True, False]

    def test_a_number_of_times(self) -> None:
        plan = FaultPlan([ApiStorm(times=2)], start=0)
        assert [plan.use(ApiStorm, 1) is not None for _ in range(3)] == [True, True, False]

    def test_patterns(self) -> None:
        plan = FaultPlan([CutLink(zone="*-a", name="vm-[12]")], start=0)
        places = [("z-a", "vm-1"), ("z-a", "vm-3"), ("z-b", "vm-1"), ("", "")]
        assert [plan.active(CutLink, 0, *place) is not None for place in places] == [
            True,
            False,
            False,
            True,
        ]

    def test_the_nth_event_of_a_place(self) -> None:
        plan = FaultPlan([Hook(label="x", when="running", count=2, zone="z-a", at=3)], start=0)
        plan.saw(event("running", 1))
        plan.saw(event("running", 2, zone="z-b"))
        plan.saw(event("created", 3))
        assert plan.next_act() == math.inf
        plan.saw(event("running", 4, name="vm-2"))
        plan.saw(event("running", 5, name="vm-3"))
        assert plan.next_act() == 7
        assert plan.due(6.9) == []
        [(fault, cause)] = plan.due(7)
        assert isinstance(fault, Hook) and cause is not None and cause.name == "vm-2"
        assert plan.due(8) == []

    def test_an_added_fault_counts_from_then_and_can_be_removed(self) -> None:
        plan = FaultPlan([], start=0)
        fault: Fault = Stockout(at=5)
        plan.add(fault, now=100)
        assert plan.active(Stockout, 104) is None
        assert plan.all_active(Stockout, 105) == [fault]
        plan.remove(fault)
        assert plan.all_active(Stockout, 105) == []
