"""Launches stop where the image is known not to fit the head: the next machine would leave, too.

A machine compares its versions with the head's before it joins, and leaves where they differ. The
autoscaler would order another one at once, and so on, each for a few minutes of money. What is
known stands in the log of events: which image and which versions a machine was launched with, and
that it did not fit. Launches go on when one of the two is another, when the head was started anew,
or after an hour, as an image of the same name may have been baked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from cluster.events import Event
from cluster.vm.join_check import HeadVersions

HELD_SECONDS = 3600
FIT_FACT = "fit"
"""Fact of a launch event: what the machine must agree in, and with what."""


def fit_of(image: str, versions: HeadVersions) -> str:
    """A short name of an image and of the versions that it must hold."""
    text = json.dumps([image, versions.to_json(), versions.requirements], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def held_by_mismatch(
    fit: str, events: Sequence[Event], now: datetime, head_since: datetime | None
) -> str | None:
    """Why nothing is to be launched; None: nothing is known against it.

    Args:
        fit: Of the machine in question.
        events: Those of kinds `launch` and `mismatch`, newest first.
        now: Aware.
        head_since: When the head was started; None where nobody knows.
    """
    since = max(now - timedelta(seconds=HELD_SECONDS), head_since or now - timedelta(days=1))
    fits = {one.facts.get("name"): one.facts[FIT_FACT] for one in events if FIT_FACT in one.facts}
    for event in events:
        is_recent = since <= event.at <= now + timedelta(seconds=HELD_SECONDS)
        if event.kind == "mismatch" and is_recent and fits.get(event.facts.get("name")) == fit:
            until = event.at + timedelta(seconds=HELD_SECONDS)
            return (
                f"no machine of this image is launched until {until:%Y-%m-%d %H:%M:%SZ}: "
                f"{event.message}; bake the image anew or change cloud.image, then start the head "
                "again (`ironcliw down`, `ironcliw up`)"
            )
    return None
