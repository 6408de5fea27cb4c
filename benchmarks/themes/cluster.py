"""Theme `cluster`: machines that come, go and are taken back, on the test bed.

What is measured is Ray, its autoscaler, our provider, controller and agent against a fake Compute
API; the machines are processes, or network namespaces, of this one. No figure says how long Google
needs for a machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from benchmarks.cluster_notice import notice_rows
from benchmarks.cluster_proofs import budget_rows, fault_rows
from benchmarks.cluster_scaling import scaling_rows
from benchmarks.cluster_serving import serving_rows
from benchmarks.cluster_size import size_rows
from benchmarks.harness import Options, Row, ThemeResult

logger = logging.getLogger(__name__)

PARTS: dict[str, Callable[[Options], list[Row]]] = {
    "machines come and go": scaling_rows,
    "memory and tests": size_rows,
    "notices": notice_rows,
    "serving": serving_rows,
    "faults": fault_rows,
    "budget": budget_rows,
}


def run(options: Options) -> ThemeResult:
    """Every part, one after the other.

    Raises:
        BenchmarkError: the test bed did not come up.
    """
    rows: list[Row] = []
    for name, part in PARTS.items():
        logger.info("cluster: %s", name)
        rows += part(options)
    return ThemeResult(rows, _REMARKS)


_BED = (
    "The test bed is `cluster.testing`: a machine runs two seconds after it was ordered; it then "
    "starts Ray, which here shares the processor with everything else."
)
_DRAIN = "Drain only: the same preemption, met by a drain of the node and nothing else."
_SERVING = (
    "Serving: requests are sent at fixed times, whatever became of those before; one has failed "
    "when its client sees anything but an answer within ten seconds."
)
_REMARKS = [_BED, _DRAIN, _SERVING]
