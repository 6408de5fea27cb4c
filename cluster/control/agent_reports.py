"""What the agents of the machines report: metered, told as events, and dropped with the machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from cluster.announcements import Announcements
from cluster.control.agent_news import AgentNews
from cluster.money.ledger import Ledger
from cluster.vm.report import VmReport

FORGET_AFTER = timedelta(minutes=10)
"""The report of a machine that is not listed is kept for so long."""


class AgentReports:
    """Takes in what the head's GCS holds of the agents.

    Args:
        ledger: Keeps how much each machine has sent.
        news: Which events are new.
        announcements: Where they are told.
    """

    def __init__(self, ledger: Ledger, news: AgentNews, announcements: Announcements) -> None:
        self._ledger = ledger
        self._news = news
        self._announcements = announcements
        self._unreadable: dict[str, tuple[str, datetime]] = {}
        self._heard: dict[str, VmReport] = {}
        self._metered: dict[str, tuple[str, int]] = {}

    def take_in(
        self, reports: Sequence[VmReport], unreadable: Mapping[str, str], now: datetime
    ) -> None:
        """Note what is new; what stands there as before costs no write.

        Args:
            reports: Of all machines whose report could be read.
            unreadable: Why the others could not; each reason is told once.
            now: By this machine's clock.

        Raises:
            StoreError: The ledger cannot be kept.
        """
        self._tell_unreadable(unreadable, now)
        # machines come and go for months
        names = {report.name for report in reports}
        for name in self._heard.keys() - names:
            del self._heard[name]
        for name in self._metered.keys() - names:
            del self._metered[name]
        # one that a restarted head has lost for a moment comes again, with all its events
        self._news.forget(names | unreadable.keys(), now - FORGET_AFTER)
        for report in reports:
            if report == self._heard.get(report.name):
                continue
            reading = report.boot, report.egress_bytes
            if reading != self._metered.get(report.name):
                self._ledger.add_egress(report.name, *reading)
                self._metered[report.name] = reading
            for kind, message, facts in self._news.of(report):
                self._announcements.add(kind, message, topic=facts["reported_at"], **facts)
            # not before: what failed on the way is tried again
            self._heard[report.name] = report

    def gone(
        self, reports: Sequence[VmReport], listed: Collection[str], now: datetime
    ) -> list[str]:
        """Machines whose report can be dropped: not listed, and silent for `FORGET_AFTER`.

        When an unreadable report was written is not known: it counts from its first sight.
        """
        last = {name: at for name, (_, at) in self._unreadable.items()}
        last |= {report.name: report.at for report in reports}
        return [name for name, at in last.items() if name not in listed and now - at > FORGET_AFTER]

    def _tell_unreadable(self, unreadable: Mapping[str, str], now: datetime) -> None:
        for name in self._unreadable.keys() - unreadable.keys():
            del self._unreadable[name]
        for name, why in unreadable.items():
            told, since = self._unreadable.get(name, ("", now))
            self._unreadable[name] = why, since
            if why != told:
                self._announcements.add("report", why, name=name)
