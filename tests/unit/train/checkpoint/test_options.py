"""What a user says about checkpoints is checked before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from train.checkpoint.options import CheckpointOptions


def test_defaults() -> None:
    options = CheckpointOptions(storage="runs/one")
    assert (options.every, options.keep, options.mtbf_hours) == ("auto", 2, 40.0)


@pytest.mark.parametrize("storage", ["gs://bucket/run", "C:\\runs", "s3://b/r?region=x", "./a:b"])
def test_storages(storage: str) -> None:
    assert CheckpointOptions(storage=storage, every=3).storage == storage


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"storage": " "}, "storage is empty"),
        ({"storage": "gs:/bucket/run"}, "two slashes: gs://bucket/run"),
        ({"storage": "x", "every": 0}, "every"),
        ({"storage": "x", "every": "often"}, "every"),
        ({"storage": "x", "keep": 1}, "keep"),
        ({"storage": "x", "mtbf_hours": 0}, "mtbf_hours"),
        ({"storage": "x", "mtbf_hours": float("inf")}, "mtbf_hours"),
        ({"storage": "x", "keeep": 2}, "keeep"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CheckpointOptions(**given)
