"""The `preference` section: what it refuses, and why."""

from __future__ import annotations

from typing import Any

import pytest

from ironcliw.errors import SettingsError
from train.config import make_config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "sigmoyd"}, r"preference.loss: .*'sigmoid'"),
        ({"loss": "cdpo"}, r"label_smoothing 0, which makes it 'sigmoid'; give label_smoothing"),
        ({"label_smoothing": 0.1}, r"loss 'sigmoid', which has none; choose cdpo or robust"),
        ({"loss": "robust", "label_smoothing": 0.5}, r"label_smoothing: .*less than 0.5"),
        ({"gamma": 0.5}, r"only simpo has a gamma"),
        ({"loss": "simpo", "reference": "model"}, r"'simpo' has no reference"),
        (
            {"reference": "model", "reference_cache": "refs"},
            r"reference is 'model', which keeps nothing, and reference_cache is 'refs'; set",
        ),
        ({"beta": 0}, r"beta: .*greater than 0"),
        ({"bata": 0.1}, r"preference.bata: .*beta"),
    ],
)
def test_wrong_values(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        make_config({"model_name": "m", "preference": options}, "run.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_dropout": 0.1}, r"lora_dropout is 0.1: with preferences .* set it to 0"),
        (
            {"use_lora": False, "preference": {"reference": "model"}},
            r"use_lora is false: the model does not hold what it was; set it to 'precomputed'",
        ),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        make_config({"model_name": "m", "preference": {}, **changes}, "run.yaml")


def test_it_changes_the_numbers_of_a_run() -> None:
    plain = make_config({"model_name": "m"}, "run.yaml").numbers()
    some = make_config({"model_name": "m", "preference": {"beta": 0.2}}, "run.yaml").numbers()
    assert plain != some


def test_where_a_reference_is_kept_is_no_number_of_a_run() -> None:
    def numbers(**options: Any) -> Any:
        return make_config({"model_name": "m", "preference": options}, "run.yaml").numbers()

    kept = numbers(reference_cache="here")
    # that it is kept does change what is computed together, and so the rounding
    assert kept == numbers(reference_cache="there") == numbers(reference="precomputed")
    assert kept != numbers()
    assert numbers()["preference"]["reference_cache"] == "", "as the releases before wrote it"
