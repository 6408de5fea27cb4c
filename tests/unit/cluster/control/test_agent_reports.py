"""What the agents report is written down when it is new, and then only."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster.control.agent_news import AgentNews
from cluster.control.agent_reports import FORGET_AFTER, AgentReports
from cluster.vm.report import VmEvent, VmReport
from ironcliw.errors import StoreError

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
REPORT = VmReport("vm-1", NOW, "node", "boot", 7, (VmEvent(NOW, "drained", ""),))


class Books:
    """Ledger, news and announcements in one: counts what is asked of it."""

    def __init__(self) -> None:
        self.egress: list[tuple[str, int]] = []
        self.told: list[str] = []
        self.looked = 0
        self.fails = False
        self.news = AgentNews()

    def add_egress(self, name: str, boot: str, counter: int) -> None:
        if self.fails:
            raise StoreError("the disk is full")
        self.egress.append((name, counter))

    def add(self, kind: str, message: str, **_: object) -> None:
        self.told.append(message)

    def forget(self, reported: Any, before: datetime) -> None:
        self.news.forget(reported, before)

    def of(self, report: VmReport) -> Any:
        self.looked += 1
        return self.news.of(report)


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def agents(books: Books) -> AgentReports:
    return AgentReports(books, books, books)  # type: ignore[arg-type]


def test_the_same_report_is_neither_written_nor_read_again(
    agents: AgentReports, books: Books
) -> None:
    for _ in range(5):
        agents.take_in([REPORT], {}, NOW)
    assert books.egress == [("vm-1", 7)]
    assert books.looked == 1
    assert books.told == ["machine vm-1 has drained its node"]


def test_a_meter_that_stands_still_is_not_written(agents: AgentReports, books: Books) -> None:
    agents.take_in([REPORT], {}, NOW)
    later = replace(REPORT, at=NOW + timedelta(seconds=10))
    agents.take_in([later], {}, NOW)
    assert books.egress == [("vm-1", 7)]
    # it may begin again at less
    for counter in (9, 3, 3):
        agents.take_in([replace(later, egress_bytes=counter)], {}, NOW)
    assert books.egress == [("vm-1", 7), ("vm-1", 9), ("vm-1", 3)]
    assert books.looked == 4
    # after another boot the same count is another reading
    agents.take_in([replace(later, egress_bytes=3, boot="next")], {}, NOW)
    assert books.egress[3:] == [("vm-1", 3)]


def test_what_could_not_be_written_is_written_later(agents: AgentReports, books: Books) -> None:
    books.fails = True
    with pytest.raises(StoreError, match="the disk is full"):
        agents.take_in([REPORT], {}, NOW)
    books.fails = False
    agents.take_in([REPORT], {}, NOW)
    assert books.egress == [("vm-1", 7)]
    assert len(books.told) == 1


def test_machines_that_are_gone_are_not_remembered(agents: AgentReports, books: Books) -> None:
    for _ in range(2):
        agents.take_in([REPORT], {}, NOW)
        agents.take_in([], {}, NOW)
    assert books.egress == [("vm-1", 7), ("vm-1", 7)]  # the ledger counts a reading once
    assert len(books.told) == 1


def test_what_was_told_of_them_is_forgotten_when_they_are_gone_for_good(
    agents: AgentReports, books: Books
) -> None:
    for number in range(100):
        agents.take_in([replace(REPORT, name=f"vm-{number}")], {}, NOW)
    agents.take_in([REPORT], {"vm-7": "damaged"}, NOW + FORGET_AFTER)
    assert len(books.news._told) == 100
    late = NOW + FORGET_AFTER + timedelta(seconds=1)
    agents.take_in([REPORT], {"vm-7": "damaged"}, late)
    assert sorted(books.news._told) == ["vm-1", "vm-7"]
    # neither the one that stands there nor the one that is readable again is news
    told = len(books.told)
    agents.take_in([REPORT, replace(REPORT, name="vm-7")], {}, late)
    assert len(books.told) == told
