"""Money and machines in general, as the running system knows them, as parts of a view."""

from __future__ import annotations

import math
from collections.abc import Iterable

from actors.situation import EndedFacts, MoneyFacts
from rl.calibration.fit import CLOUD, Fit
from rl.pace import Pace
from rl.regime import Costs
from rl.view import MachineView, MoneyView
from rl.view_parts import boot_mean, committed_dollars, hazard_mean

NO_CAP_DOLLARS = 1000.0
_UNPAID = MoneyFacts(0.0638, day_cap=0.0, month_cap=0.0)


def money_view(
    facts: MoneyFacts | None,
    machines: Iterable[MachineView | None],
    pace: float,
    costs: Costs,
    at: float,
) -> MoneyView:
    """Money and risk; nothing to spend where nobody has told.

    Args:
        facts: Of the ledger and the events.
        machines: That there are.
        pace: See `pace_of`.
        costs: What waiting and missed deadlines are worth.
        at: Unix seconds.
    """
    facts = facts or _UNPAID
    month = min(facts.month_left, NO_CAP_DOLLARS)
    since = math.inf if facts.refused_at is None else max(at - facts.refused_at, 0.0)
    return MoneyView(
        price_per_hour=facts.price_per_hour,
        day_left=min(facts.day_left, month),
        month_left=month,
        committed=committed_dollars(machines, facts.price_per_hour),
        hazard_per_hour=hazard_mean(facts.losses, facts.exposed_hours),
        boot_seconds=boot_mean(facts.boots),
        stocked_out_seconds=since,
        hour_of_priority=costs.hour_of_priority,
        miss=costs.miss,
        day_cap=math.inf if facts.day_cap is None else facts.day_cap,
        cloud_pace=pace,
    )


def pace_of(ended: Iterable[EndedFacts], fit: Fit, since: float) -> float:
    """Times as long as believed steps took on machines; see `rl.pace`.

    Args:
        ended: Steps there.
        fit: What is believed.
        since: Unix seconds; of those before nothing is taken, as the day was another.
    """
    pace = Pace()
    for one in ended:
        if one.at >= since:
            believed = fit.seconds(one.target, CLOUD, one.expected_seconds)
            pace.saw(one.seconds, believed.median, believed.sigma)
    return pace.mean()
