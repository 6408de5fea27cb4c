"""What is demanded of the autoscaler, read and said again in Ray's own words.

Ray has one place for it, `ray.autoscaler.sdk.request_resources`: who writes there replaces what
others wrote. So what others wrote is written again, exactly, or nothing is written.

A selector is a dictionary of text: `spot`, `!spot`, `in(a,b)`, `!in(a,b)`. Source: the expressions
in `ray/_private/label_utils.py` of Ray 2.60, and what its GCS makes of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.config import GROUP_LABEL, SPOT_TYPE
from ironcliw.errors import ClusterError

# One worker, in the words of the autoscaler. Demand in just these words is ours; all else is
# somebody's `ray.autoscaler.sdk.request_resources`, which has the same one slot.
WORKER: Mapping[str, float] = {"spot": 1.0}
WORKER_SELECTOR: Mapping[str, str] = {GROUP_LABEL: SPOT_TYPE}
_SIGNS = {1: "", 2: "!"}
"""By operator, IN and NOT_IN of Ray's `LabelSelectorOperator`."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Resources that the autoscaler is asked to have, so many times.

    Attributes:
        resources: How much of each.
        selector: Of a node's labels, by key, in Ray's words.
        count: How often.
        unlike: What of it these words cannot say; empty: nothing.
    """

    resources: Mapping[str, float]
    selector: Mapping[str, str]
    count: int
    unlike: str = ""

    @property
    def is_ours(self) -> bool:
        return self.resources == WORKER and self.selector == WORKER_SELECTOR and not self.unlike


def ours(workers: int) -> Bundle:
    """The demand for so many workers in our name."""
    return Bundle(WORKER, WORKER_SELECTOR, workers)


def bundles_of(constraints: Iterable[Any]) -> tuple[Bundle, ...]:
    """All that Ray's `ClusterResourceConstraint` messages demand."""
    return tuple(_bundle(one) for constraint in constraints for one in constraint.resource_requests)


def refuse_unlike(bundles: Iterable[Bundle]) -> None:
    """Writing these again must change none of them.

    Raises:
        ClusterError: One would become another.
    """
    for bundle in bundles:
        if bundle.unlike:
            raise ClusterError(
                f"somebody's demand for {bundle.count} times {dict(bundle.resources)} has "
                f"{bundle.unlike}, which cannot be written again: it is left as it is, and no "
                "workers are demanded beside it until it is withdrawn (request_resources())"
            )


def _bundle(demanded: Any) -> Bundle:
    request = demanded.request
    resources = dict(request.resources_bundle)
    alternatives = request.label_selectors
    if len(alternatives) > 1:
        unlike = f"{len(alternatives)} alternative label selectors"
    elif request.placement_constraints:
        unlike = "constraints of placement"
    else:
        selector: dict[str, str] = {}
        for term in (term for one in alternatives for term in one.label_constraints):
            words = _words(term.operator, term.label_values)
            if words is None or term.label_key in selector:
                unlike = f"the label constraint {str(term).split()}"
                break
            selector[term.label_key] = words
        else:
            return Bundle(resources, selector, demanded.count)
    return Bundle(resources, {}, demanded.count, unlike)


def _words(operator: int, values: Sequence[str]) -> str | None:
    """The text of which Ray makes that operator and those values; None: there is none."""
    sign = _SIGNS.get(operator)
    # in other places these characters are part of the syntax
    if sign is None or any(set("!(),") & set(value) for value in values):
        return None
    if len(values) == 1:
        return sign + values[0]
    # the order means nothing, and Ray gives another one every time
    return f"{sign}in({','.join(sorted(values))})"
