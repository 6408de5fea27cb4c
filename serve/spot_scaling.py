"""How many replicas the cloud should run: none, until somebody asks; then as the load demands.

Serve counts the requests that it finds open when it looks, every few seconds. That is right for
load, and wrong for "is it used at all": ten short requests a second are hardly ever seen. So each
replica says itself whether it was used since the last look, and while one was, one stays.

From none to the first, Serve needs no rule of ours: a request that waits in a handle is enough.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

USED = "used"
"""What a replica reports: 1 if a request was there since its last report, else 0."""
REPORT_SECONDS = 15.0
"""Span over which Serve looks at what was reported; more than its own interval of 10 s."""
# Machines take their time, those without a baked image most: a start is not taken back before.
_START_SECONDS = 900.0


def replicas_wanted(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """The policy, as Serve's autoscaler calls it; it applies bounds and delays itself."""
    target = context.config.target_ongoing_requests if context.config else 1.0
    by_load = math.ceil(context.total_num_requests / target)
    floor = 1 if _is_used(context) or _is_starting(context) else 0
    return max(by_load, floor), {}


def _is_used(context: AutoscalingContext) -> bool:
    reports = (context.aggregated_metrics or {}).get(USED, {})
    return any(value > 0 for value in reports.values())


def _is_starting(context: AutoscalingContext) -> bool:
    if context.target_num_replicas == 0 or context.running_replicas:
        return False
    now = context.current_time or time.time()
    return now - (context.last_scale_up_time or 0.0) < _START_SECONDS
