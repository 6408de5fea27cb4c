"""A definition that breaks a rule is refused, with the step and the field."""

from __future__ import annotations

import itertools
import re
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from actors.workflow import definition as module
from actors.workflow.definition import MAX_BYTES, define
from actors.workflow.tasks import REFERENCE_KEY
from ironcliw.errors import RequestError, RequestTooLargeError

ANSWER: dict[str, Any] = {
    "name": "answer",
    "inputs": {"question": {"required": True}, "top_k": {"default": 3}, "hint": None},
    "deadline_seconds": 60,
    "priority": "high",
    "steps": {
        "answer": {
            "generate": {"model": "m", "prompt": "${inputs.question} ${steps.fetch}"},
            "after": ["intent"],
        },
        "fetch": {
            "function": "knowledge.lookup",
            "with": {"query": "${inputs.question}", "label": "${steps.intent.label}"},
            "when": "${steps.intent.confidence} >= 0.5",
            "for_each": "${steps.intent.parts}",
            "compensate": {"function": "knowledge.undo", "with": {"was": "${output}"}},
        },
        "intent": {"decide": {"input": "${inputs.question}", "labels": ["a", "b"]}},
    },
    "output": "${steps.answer.text}",
}


def one(**step: Any) -> dict[str, Any]:
    return {"name": "one", "inputs": {"q": None}, "steps": {"s": {"function": "f", **step}}}


def test_steps_stand_after_what_they_need() -> None:
    definition = define(ANSWER)
    assert [step.name for step in definition.steps] == ["intent", "fetch", "answer"]
    assert [step.needs for step in definition.steps] == [(), (0,), (0, 1)]
    assert [step.dependents for step in definition.steps] == [(1, 2), (2,), ()]
    assert (definition.priority, definition.deadline_seconds) == ("high", 60)


def test_equal_definitions_are_read_once() -> None:
    assert define(ANSWER) is define({**ANSWER})
    assert define(ANSWER) is not define({**ANSWER, "description": "other"})


def test_inputs_get_their_defaults() -> None:
    bound = define(ANSWER).bind({"question": "why"})
    assert bound == {"question": "why", "top_k": 3, "hint": None}


@pytest.mark.parametrize(
    ("given", "message", "param"),
    [
        ({}, "the input 'question', .*command line --input question=VALUE", "inputs.question"),
        (
            {"question": "", "top": 1},
            "has no input 'top'; its inputs: question, top_k, hint",
            "inputs.top",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    given: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        define(ANSWER).bind(given)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("call", "idempotent"),
    [
        ({"function": "f"}, None),
        ({"agent": "summarise"}, None),
        ({"http": {"url": "http://x/"}}, True),
        ({"http": {"url": "http://x/", "method": "head"}}, True),
        ({"http": {"url": "http://x/", "method": "POST"}}, False),
        ({"http": {"url": "http://x/", "method": "POST"}, "idempotent": True}, True),
        ({"embed": {"input": "x"}}, True),
        ({"train": {"recipe": "sft"}}, True),
        ({"generate": {"prompt": "x"}, "idempotent": False}, False),
    ],
)
def test_whether_a_step_may_be_repeated_is_known(
    call: dict[str, Any], idempotent: bool | None
) -> None:
    assert define({"name": "d", "steps": {"s": call}}).steps[0].call.idempotent is idempotent


def test_an_agent_is_named_by_capability_or_name() -> None:
    def call(agent: Any) -> tuple[str, Any]:
        found = define({"name": "d", "steps": {"s": {"agent": agent}}}).steps[0].call
        return found.target, found.options

    assert call("summarise") == ("summarise", {"by": "capability"})
    waits = {"by": "capability", "wait_seconds": 5.0}
    assert call({"capability": "summarise", "wait_seconds": 5.0}) == ("summarise", waits)
    assert call({"name": "ada", "method": "read"}) == ("ada", {"by": "name", "method": "read"})


@pytest.mark.parametrize(
    ("change", "message", "param"),
    [
        ({"function": None}, "step 's': it has none of function, agent", "steps.s"),
        ({"http": {"url": "u"}}, "it has function and http of", "steps.s"),
        ({"function": "a b"}, "field `function`: 'a b' is no name", "steps.s.function"),
        ({"function": "${inputs.q}"}, "no references", "steps.s.function"),
        ({"wit": {}}, "field `wit`: there is no such field; did you mean `with`; ", "steps.s.wit"),
        ({"oops": 1}, "no such field; there are function, agent, .*, compensate$", "steps.s.oops"),
        ({"wait_seconds": 5}, r"write agent: \{capability: NAME, wait_seconds: \.\.\.\}", None),
        ({"retry": {"tries": 2}}, "`retry.tries`: .*there are attempts, backoff_seconds", None),
        ({"compensate": {"when": "x"}}, "`compensate.when`: .*, expected_seconds$", None),
        (
            {"with": "Ada"},
            "field `with`: an object .names with values. is expected",
            "steps.s.with",
        ),
        ({"after": "a"}, "field `after`: a list is expected", "steps.s.after"),
        ({"agent": 5}, "field `agent`: a text or an object .* is expected", "steps.s.agent"),
        ({"agent": {"nme": "x"}}, "^.*: step 's', field `agent.nme`: .*`name`; [^;]*$", None),
        ({"retry": {"attempts": 0}}, "field `retry.attempts`: input should", None),
        ({"timeout_seconds": -1}, "field `timeout_seconds`: input should be greater", None),
        ({"place": "moon"}, "field `place`: input should be 'local', 'spot'", None),
        ({"max_parallel": 2}, "it says nothing without `for_each`", "steps.s.max_parallel"),
        ({"for_each": "a, b"}, "'a, b' is no list", "steps.s.for_each"),
        ({"for_each": "${inputs.q} "}, "is no list: write one reference", "steps.s.for_each"),
        ({"when": "${inputs.q} = 1"}, "has '= 1' where a value, a comparison", "steps.s.when"),
        ({"when": "${item} == 1", "for_each": [1]}, "stands only in the call", "steps.s.when"),
        ({"with": {"a": "${inputs.p}"}}, "there is no input 'p'; there are: q", "steps.s.with.a"),
        ({"with": {"a": ["${steps.t.x}"]}}, "there is no step 't'", "steps.s.with.a[0]"),
        ({"with": {"a": "${item}"}}, r"\$\{item\} stands only in the call", "steps.s.with.a"),
        ({"with": {"a": "${output}"}}, "stands only under `compensate`", "steps.s.with.a"),
        ({"with": {"a": "${workflow.owner}"}}, "a workflow has `id` and `name`", None),
        ({"with": {"a": "${oops}"}}, r"step 's', field `with`: \$\{oops\} is no", "steps.s.with"),
        ({"with": {"a": "${steps.s}"}}, "it needs its own output", "steps.s"),
        ({"after": ["t"]}, "there is no step 't'; there are: s", "steps.s.after"),
        (
            {"compensate": {"function": "g", "http": {}}},
            "step 's', field `compensate`: it has function and http",
            "steps.s.compensate",
        ),
    ],
)
def test_a_step_that_breaks_a_rule_is_refused(
    change: dict[str, Any], message: str, param: str | None
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        define(one(**change))
    if param is not None:
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"http": {"method": "GET"}}, "field `http`: `url` is missing"),
        ({"decide": {"input": "x"}}, "field `decide`: `labels` or `questions` is missing"),
        ({"generate": {}}, "field `generate`: `messages` or `prompt` is missing"),
        ({"embed": {"input": "x"}, "with": {}}, "has its arguments under `embed`"),
        ({"agent": {}}, "give either `capability` or `name`"),
        ({"agent": {"capability": "c", "method": "m"}}, "it goes with `name`"),
    ],
)
def test_a_call_that_lacks_something_is_refused(call: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        define({"name": "d", "steps": {"s": call}})


def test_a_cycle_is_refused_with_its_steps() -> None:
    steps = {
        "a": {"function": "f", "after": ["c"]},
        "b": {"function": "f", "with": {"x": "${steps.a}"}},
        "c": {"function": "f", "when": "${steps.b} == 1"},
        "d": {"function": "f", "after": ["a"]},
    }
    with pytest.raises(RequestError, match="it waits for itself: ") as caught:
        define({"name": "d", "steps": steps})
    found = re.search(r"itself: (.*?);", caught.value.message)
    assert found is not None
    cycle = found[1].split(" -> ")
    assert cycle[0] == cycle[-1]
    waits = {("a", "c"), ("b", "a"), ("c", "b")}
    assert set(itertools.pairwise(cycle)) == waits


def test_a_compensation_may_use_only_what_has_ended() -> None:
    steps = {
        "a": {"function": "f"},
        "b": {"function": "f", "after": ["a"]},
        "c": {"function": "f", "after": ["b"]},
    }

    def with_undo(reference: str) -> dict[str, Any]:
        undo = {"function": "g", "with": {"x": reference}}
        return {"name": "d", "steps": {**steps, "b": {**steps["b"], "compensate": undo}}}

    define(with_undo("${steps.a}"))
    with pytest.raises(RequestError, match="it uses step 'c', which need not have ended before"):
        define(with_undo("${steps.c}"))


def test_the_output_is_checked_and_has_a_default() -> None:
    with pytest.raises(RequestError, match=r"field `output\.x`: there is no step 't'"):
        define({**one(), "output": {"x": "${steps.t}"}})
    two = {"name": "two", "steps": {"a": {"function": "f"}, "b": {"function": "f"}}}
    texts = [each.text for _, each in define(two).output.references]
    assert texts == ["${steps.a}", "${steps.b}"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "d", "steps": {}}, "field `steps`: dictionary should have at least 1"),
        ({"steps": {"s": {"function": "f"}}}, "field `name`: it is required$"),
        ({**one(), "step": {}}, "field `step`: .*; did you mean `steps`; there are name, "),
        ({**one(), "inputs": {"q": {"dflt": 1}}}, "field `inputs.q.dflt`: .* there are required, "),
        ({"name": "d", "steps": {"a b": {"function": "f"}}}, "step 'a b': a name has letters"),
        ({**one(), "inputs": {"q": {"required": True, "default": 1}}}, "required and has a"),
        (one(**{"with": {"a": {1, 2}}}), "the definition is not JSON"),
        (one(**{"with": {"a": float("nan")}}), "the definition is not JSON"),
        (one(**{"with": {REFERENCE_KEY: "file:///etc/passwd"}}), "has a key '.reference'"),
    ],
)
def test_a_definition_that_is_none_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        define(source)


def test_a_definition_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestTooLargeError, match=f"the most is {MAX_BYTES}"):
        define(one(**{"with": {"a": "x" * MAX_BYTES}}))


def test_only_the_first_problems_are_told() -> None:
    steps = {f"s{index}": {"function": "f", "place": "moon"} for index in range(8)}
    with pytest.raises(RequestError, match=r"step 's4', .*; and 3 more$"):
        define({"name": "d", "steps": steps})


def test_definitions_are_read_in_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hasty(OrderedDict[bytes, Any]):
        """Lets another thread in where it hurts most."""

        def get(self, key: bytes, default: Any = None) -> Any:
            found = super().get(key, default)
            if threading.current_thread() is not threading.main_thread():
                looked.set()
                changed.wait(0.2)
            return found

    looked, changed = threading.Event(), threading.Event()
    flows = [{"name": name, "steps": {"a": {"function": "f"}}} for name in ("one", "two")]
    monkeypatch.setattr(module, "_cache", Hasty())
    monkeypatch.setattr(module, "CACHED", 1)
    module.define(flows[0])
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(module.define, flows[0])
        looked.wait(60)
        module.define(flows[1])  # it takes the place of the first
        changed.set()
        assert again.result(60).name == "one"
