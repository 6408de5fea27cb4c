"""The worker's side of a function step, in this process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actors import functions
from actors.functions import StepContext, function
from actors.results import Results, to_json
from actors.steps.worker import FunctionAnswer, FunctionCall, answer_call, read_result
from actors.workflow.tasks import REFERENCE_KEY


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, and no functions but those of the test."""
    context = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(functions, "_registered", {})


def answered(folder: Path, name: str, inputs: Mapping[str, Any], *more: Any) -> FunctionAnswer:
    context = StepContext("wf-1", "s", None, 1, "wf-1/s", None)
    call = FunctionCall(name, inputs, context, (), 1000, "the result of step s", str(folder))
    return answer_call(call, None, *more)


def test_results_by_reference_are_read_where_the_function_runs(tmp_path: Path) -> None:
    results = Results(str(tmp_path), inline_bytes=0, most_bytes=1000)
    address = results.keep("wf-1", to_json([1, 2, 3], "it"), "it")
    function("sum")(lambda numbers, more: sum(numbers) + more)
    inputs = {"numbers": {REFERENCE_KEY: address}, "more": 4}
    assert answered(tmp_path, "sum", inputs).content == b"10"
    assert address is not None
    content = read_result(str(tmp_path), "wf-1", address)
    assert answered(tmp_path / "elsewhere", "sum", inputs, content).content == b"10"


def test_a_result_of_another_workflow_is_refused(tmp_path: Path) -> None:
    results = Results(str(tmp_path), inline_bytes=0, most_bytes=1000)
    address = results.keep("wf-2", to_json("secret", "it"), "it")
    function("echo")(lambda text: text)
    answer = answered(tmp_path, "echo", {"text": {REFERENCE_KEY: address}})
    assert answer.error is not None
    assert "is no result of workflow wf-1" in answer.error.message
    assert (answer.error.failure, answer.error.retryable) == ("invalid", False)


def test_the_processor_time_of_a_function_is_told(tmp_path: Path) -> None:
    def works() -> None:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass

    function("works")(works)
    answer = answered(tmp_path, "works", {})
    assert answer.cpu_seconds is not None
    assert 0.02 <= answer.cpu_seconds < 10.0


def test_a_long_text_does_not_push_out_where_it_was_raised(tmp_path: Path) -> None:
    def talkative() -> None:
        raise ValueError("x" * 1_048_576)

    function("talkative")(talkative)
    error = answered(tmp_path, "talkative", {}).error
    assert error is not None
    assert error.message.startswith("talkative raised ValueError: xxx")
    assert "characters more)" in error.message
    assert "in talkative" in error.message
    assert len(error.message) < 4000


def test_what_says_nothing_has_no_colon(tmp_path: Path) -> None:
    def mute() -> None:
        raise MemoryError

    function("mute")(mute)
    error = answered(tmp_path, "mute", {}).error
    assert error is not None
    assert error.message.startswith("mute raised MemoryError\n")


def test_what_a_function_raises_is_told_with_its_place(tmp_path: Path) -> None:
    def broken() -> None:
        raise KeyError("nothing")

    function("broken")(broken)
    error = answered(tmp_path, "broken", {}).error
    assert error is not None
    assert error.message.startswith("broken raised KeyError: 'nothing'")
    assert "test_worker.py" in error.message


@pytest.mark.parametrize(
    ("value", "failure"), [("x" * 2000, "oversized"), (float("nan"), "invalid")]
)
def test_a_function_whose_result_cannot_be_used_has_acted(
    tmp_path: Path, value: Any, failure: str
) -> None:
    function("charge")(lambda: value)
    error = answered(tmp_path, "charge", {}).error
    assert error is not None
    assert (error.failure, error.acted, error.retryable) == (failure, True, False)


def test_a_function_that_was_not_called_has_not_acted(tmp_path: Path) -> None:
    function("charge")(lambda: None)
    error = answered(tmp_path, "charge", {"amount": 1}).error
    assert error is not None
    assert (error.failure, error.acted) == ("invalid", False)
