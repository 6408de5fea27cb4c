"""What machines cost, by day and month, against the caps."""

from __future__ import annotations

from collections.abc import Iterable

from rl.regime import Costs
from rl.sites import Machine

HOUR = 3600.0
DAY = 24 * HOUR
LEAST_SECONDS = 60.0  # Compute Engine's least payment of a machine
BORROWED = 1.0
"""USD that a dollar costs beside itself once its day is over: the next day, whose work is not
drawn, would have used it. Ours; without it what is put off would be done on money from nowhere."""


class Ledger:
    """Adds up; knows neither policy nor events.

    Args:
        costs: The caps.
        price: Of a machine, USD an hour.
        month_spent: Before this day.
    """

    def __init__(self, costs: Costs, price: float, month_spent: float = 0.0) -> None:
        self.price = price
        self.day_cap = costs.day_dollars
        self.month_cap = costs.month_dollars
        self.day_spent = 0.0
        self.month_spent = month_spent
        self.total = 0.0
        self.borrowed = 0.0  # of total, after the midnight
        self._is_over = False
        self.breaches = 0
        self.machine_seconds = 0.0

    def owed(self, machines: Iterable[Machine], now: float) -> float:
        """USD for machines that run, since they were last paid for."""
        seconds = sum(
            max(machine.least_seconds, now - machine.paid_from, 0.0)
            for machine in machines
            if machine.is_real
        )
        return seconds / HOUR * self.price

    def charged(self, machines: Iterable[Machine], now: float) -> float:
        """USD of the objective: what is paid and owed, and what it takes from the next day."""
        owed = self.owed(machines, now)
        borrowed = self.borrowed + (owed if self._is_over else 0.0)
        return self.total + owed + BORROWED * borrowed

    def left(self, machines: Iterable[Machine], now: float) -> tuple[float, float]:
        """USD of (the day's, the month's) cap, after what is spent and owed."""
        owed = self.owed(machines, now)
        return self.day_cap - self.day_spent - owed, self.month_cap - self.month_spent - owed

    def pay(self, machine: Machine, now: float) -> None:
        """Settle a machine up to now; at its end and at midnight."""
        if not machine.is_real:
            return
        seconds = max(machine.least_seconds, now - machine.paid_from, 0.0)
        dollars = seconds / HOUR * self.price
        self.machine_seconds += seconds
        self.day_spent += dollars
        self.month_spent += dollars
        self.total += dollars
        if self._is_over:
            self.borrowed += dollars
        machine.least_seconds = 0.0
        machine.paid_from += seconds  # after now, where the least payment was more

    def midnight(self, machines: Iterable[Machine], now: float) -> None:
        """Begin the next day's cap."""
        for machine in machines:
            self.pay(machine, now)
        self.close_day()
        self.day_spent = 0.0
        self._is_over = True

    def close_day(self) -> None:
        """Count a day that cost more than its cap."""
        if self.day_spent > self.day_cap + 1e-9 or self.month_spent > self.month_cap + 1e-9:
            self.breaches += 1
