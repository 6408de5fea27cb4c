"""Days of training from wide ranges: a policy that has seen many regimes fears a new one less.

The ranges are those that the project's evidence gives for the world (shared notes, section 4), and
what the regimes of training hold beyond them. They were fixed before any learning. They overlap
with those of the regimes that are held out, but were not made from them. Heads and caps on money
are of many sizes, too: a policy decides nothing where these lie beyond its training.
"""

from __future__ import annotations

import math

from rl.draws import Draws, seed_of
from rl.regime import Regime, regime_of

NAME = "randomised"


def randomised(seed: int, number: int) -> Regime:
    """The regime of one day; the same for the same seed and number."""
    draws = Draws(seed_of(NAME, seed, number))
    load = draws.log_between(8.0, 48.0, 1)
    sigma = draws.between(0.15, 0.7, 2)
    memory = draws.between(0.05, 0.3, 3)
    size = draws.log_between(0.75, 8.0, 30)  # of a head of 16 GB
    user = math.sqrt(size)  # who has a larger one fills it less
    day = draws.log_between(0.2, 30.0, 31)
    mix = {"answer": 0.4, "ingest": 0.22, "train": 0.16, "analysis": 0.12, "drafts": 0.1}
    return regime_of(
        {
            "name": NAME,
            "mix": {
                name: share * draws.log_between(0.4, 2.5, 10, key)
                for key, (name, share) in enumerate(mix.items())
            },
            "arrivals": {
                "workflows_per_day": (0.9 * load, 1.1 * load),
                "session_workflows": draws.between(3.0, 14.0, 4),
                "gap_seconds": draws.log_between(20.0, 150.0, 5),
                "gap_sigma": draws.between(0.8, 1.4, 6),
            },
            "estimates": {"duration_sigma": (sigma, sigma), "memory_sigma": (memory, memory)},
            "home": {
                "memory_gb": 16.0 * size,
                "cores": 8.0 * user,
                "user_gb": (user * draws.between(4.0, 6.0, 7), user * draws.between(8.0, 10.0, 8)),
            },
            "costs": {"day_dollars": day, "month_dollars": day * draws.log_between(1.0, 30.0, 32)},
            "spot": {
                "hazard_per_hour": (0.003, 0.6),
                "outages_per_day": (0.0, 3.0),
                "stockout": (0.0, 0.4),
                "boot_seconds": (45.0, 240.0),
                "boot_sigma": draws.between(0.1, 0.4, 9),
            },
            "deadlines": {"slack": (draws.between(1.3, 2.0, 20), draws.between(3.5, 6.0, 21))},
        },
        "a randomised regime",
    )
