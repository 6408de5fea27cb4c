"""The list filters: what passes, and what is refused instead of being passed by luck."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.testing.api_errors import ApiError
from cluster.testing.filters import apply_filter

ITEMS: list[dict[str, Any]] = [
    {
        "name": "ironcliw-1",
        "status": "RUNNING",
        "labels": {"ironcliw-cluster": "home", "b": ""},
        "zone": "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a",
        "insertTime": "2026-01-15T05:00:00.000-07:00",
        "scheduling": {"preemptible": True},
    },
    {"name": "ironcliw-2", "status": "STOPPING", "labels": {"ironcliw-cluster": "work"}},
    {"name": "other", "status": "RUNNING", "insertTime": "2026-01-15T13:00:00Z"},
]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "ironcliw-1 ironcliw-2 other"),
        ("labels.ironcliw-cluster=home", "ironcliw-1"),
        ('labels.ironcliw-cluster="home"', "ironcliw-1"),
        ("labels.ironcliw-cluster:*", "ironcliw-1 ironcliw-2"),
        ("labels.b = ''", "ironcliw-1"),
        ("labels.ironcliw-cluster != home", "ironcliw-2 other"),
        ("status = RUNNING AND name = other", "other"),
        ("(status = RUNNING) (name = other)", "other"),
        ("(status = RUNNING) AND (labels.ironcliw-cluster = home)", "ironcliw-1"),
        ("(status = RUNNING)", "ironcliw-1 other"),
        ("name eq 'ironcliw-.*'", "ironcliw-1 ironcliw-2"),
        ("name eq ironcliw", ""),
        ("name ne 'ironcliw-.*'", "other"),
        ("zone = us-central1-a", "ironcliw-1"),
        ("scheduling.preemptible = true", "ironcliw-1"),
        ('insertTime > "2026-01-15T12:30:00Z"', "other"),
        ('insertTime <= "2026-01-15T12:00:00+00:00"', "ironcliw-1"),
        ("name : IRON", "ironcliw-1 ironcliw-2"),
    ],
)
def test_passes(text: str, names: str) -> None:
    assert " ".join(str(item["name"]) for item in apply_filter(ITEMS, text)) == names


@pytest.mark.parametrize(
    "text",
    [
        "status",
        "status = RUNNING OR name = other",
        "status = RUNNING name = other",
        "NOT status = RUNNING",
        "status == RUNNING",
        "name eq '('",
        "insertTime > yesterday",
        "insertTime > 2026-01-15T12:00:00",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(ApiError, match="400 invalid: Invalid value for field 'filter'"):
        apply_filter(ITEMS, text)
