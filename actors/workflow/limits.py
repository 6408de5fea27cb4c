"""How much one workflow may hold.

Any limit may be changed at any time. Workflows that are open go on with the `items` of when they
were submitted, which stands in their first event: they could not be rebuilt from it otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMER_ITEMS = 10_000
"""Of workflows whose first event does not say it: an earlier release has written it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are bytes of compact JSON.

    Attributes:
        result_bytes: Of one step's, or one item's, value; executors keep larger ones by reference.
        total_bytes: Of all values of one workflow.
        inputs_bytes: Of what a workflow is submitted with.
        call_bytes: Of the values that one attempt is handed, each as often as it is named.
        referenced_bytes: Of results by reference that a step reads where it runs.
        output_bytes: Of the workflow's output.
        items: Of one fan-out.
        losses: A step whose process or machine was lost so often fails: it may be what kills them.
        losses_factor: Seconds before the third attempt after losses; doubled from then on.
    """

    result_bytes: int = 64 * 1024
    total_bytes: int = 32 * 1024 * 1024
    inputs_bytes: int = 1024 * 1024
    call_bytes: int = 8 * 1024 * 1024
    referenced_bytes: int = 1024 * 1024 * 1024
    output_bytes: int = 1024 * 1024
    items: int = 10_000
    losses: int = 10
    losses_factor: float = 1.0
