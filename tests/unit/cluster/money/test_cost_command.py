"""`ironcliw cost` on a real store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from ironcliw.cli import main
from ironcliw.settings import load_settings
from ironcliw.store import Store
from tests.unit.cluster.vm_requests import vm_request


@dataclass
class Run:
    """What a command wrote."""

    out: str
    err: str


Command = Callable[..., Run]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: str) -> Run:
        with pytest.raises(SystemExit) as end:
            main(words)
        assert not end.value.code
        return Run(*capsys.readouterr())

    return call


def reserve_and_meter() -> None:
    """A machine that was promised an hour ago, and a gigabyte of egress."""
    settings = load_settings()
    with Store(settings.store_url) as store:
        store.migrate()
        ledger = Ledger(store, PriceTable.of(settings.budget), settings.budget)
        ledger.observe([])
        wanted = vm_request(name="ironcliw-1", max_run_seconds=600)
        assert ledger.reserve(wanted).granted
        ledger.add_egress("ironcliw-1", "boot", 10**9)


def test_an_empty_ledger(run: Command) -> None:
    shown = run("cost")
    assert "0.0 VM hours, 0.00 GB out" in shown.out
    assert "cap (budget.month_usd)" in shown.out
    assert shown.err == ""


def test_the_report_as_text_and_json(run: Command) -> None:
    reserve_and_meter()
    lines = run("cost").out.splitlines()
    assert any(line.split() == ["egress", "to", "date", "0.1200"] for line in lines)
    assert any("at the most (machines now: 1)" in line for line in lines)
    document = json.loads(run("cost", "--json").out)
    assert document["to_date"]["egress"] == 0.12
    # a quarter of an hour, and the disk to the end of a month that may be about to end
    assert 0.12 + 0.0165 < document["committed"] < 0.12 + 0.017 + 31 * 24 * 0.00274
    assert document["by_use"] == {}


def test_the_table(run: Command) -> None:
    text = run("cost", "table").out
    for figure in ("$7.66", "$15.31", "$22.97", "$45.94", "$551.28", "$153.22"):
        assert figure in text
    document = json.loads(run("cost", "table", "--json").out)
    assert document["spot"] == 0.0638
    assert [row["month"] for row in document["rows"]] == [7.66, 15.31, 22.97, 45.94]


def test_caps_that_admit_nobody_are_told(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIW_CLOUD__PROJECT", "a-project")
    assert run("cost").err == ""
    monkeypatch.setenv("IRONCLIW_BUDGET__MONTH_USD", "0.05")
    assert "no worker can be launched: budget.month_usd is 0.05" in run("cost").err
