"""Workflows in Python give the definition that YAML gives."""

from __future__ import annotations

import pytest

from actors.workflow.builder import INDEX, ITEM, OUTPUT, Ref, Workflow, function
from actors.workflow.yaml_file import parse_definition
from ironcliw.errors import RequestError

YAML = """
name: answer
priority: high
deadline_seconds: 60
inputs:
  question: {required: true}
  top_k: {default: 3, description: how many}
steps:
  intent:
    decide: {input: "${inputs.question}", labels: [billing, travel]}
  fetch:
    function: knowledge.lookup
    with: {query: "${inputs.question}", part: "${item}", number: "${index}"}
    when: ${steps.intent["confidence"]} >= 0.5
    for_each: ${steps.intent["parts"]}
    max_parallel: 4
    retry: {attempts: 3}
    compensate: {function: knowledge.undo, with: {was: "${output}"}, idempotent: true}
  ask:
    agent: {name: ada}
    with: {about: '${steps.fetch[0]["title"]}'}
  tell:
    http: {method: POST, url: "https://example.org/${inputs.top_k}"}
    after: [fetch, ask]
  vectors:
    embed: {input: "${steps.fetch}"}
  answer:
    generate: {prompt: "${inputs.question}: ${steps.fetch}"}
  tune:
    train: {recipe: sft}
    place: spot
output: {text: '${steps.answer["text"]}'}
"""


def test_both_ways_give_the_same_definition() -> None:
    flow = Workflow("answer", deadline_seconds=60, priority="high")
    question = flow.input("question")
    top_k = flow.input("top_k", 3, "how many")
    intent = flow.decide("intent", {"input": question, "labels": ("billing", "travel")})
    fetch = flow.function(
        "fetch",
        "knowledge.lookup",
        {"query": question, "part": ITEM, "number": INDEX},
        when=f"{intent['confidence']} >= 0.5",
        for_each=intent["parts"],
        max_parallel=4,
        retry={"attempts": 3},
        compensate=function("knowledge.undo", {"was": OUTPUT}, idempotent=True),
    )
    ask = flow.agent("ask", {"name": "ada"}, {"about": fetch[0]["title"]})
    flow.http("tell", {"method": "POST", "url": f"https://example.org/{top_k}"}, after=[fetch, ask])
    flow.embed("vectors", {"input": fetch})
    answer = flow.generate("answer", {"prompt": f"{question}: {fetch}"})
    flow.train("tune", {"recipe": "sft"}, place="spot")
    flow.output({"text": answer["text"]})
    written = parse_definition(YAML, "answer.yaml")
    assert flow.source() == written.source
    assert [step.name for step in flow.build().steps] == [step.name for step in written.steps]


def test_names_are_unique() -> None:
    flow = Workflow("d")
    flow.function("a", "f")
    flow.input("x")
    with pytest.raises(RequestError, match="there is a step 'a' already"):
        flow.embed("a", {"input": "x"})
    with pytest.raises(RequestError, match="there is an input 'x' already"):
        flow.input("x", 1)


def test_a_value_that_is_not_known_yet_decides_nothing_here() -> None:
    flow = Workflow("d")
    made = flow.function("a", "f")
    with pytest.raises(TypeError, match=r"\$\{steps\.a\} is not known yet: `when=\.\.\.` decides"):
        bool(made)
    with pytest.raises(TypeError, match=r"`for_each=\.\.\.` runs a step for each item"):
        list(made)


def test_only_steps_can_be_waited_for() -> None:
    flow = Workflow("d")
    question = flow.input("question")
    with pytest.raises(RequestError, match=r"\$\{inputs\.question\} is not the output of a step"):
        flow.function("a", "f", after=[question])
    assert Ref("steps.a")["b"].step == "a"
