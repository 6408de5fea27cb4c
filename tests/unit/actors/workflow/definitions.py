"""Random definitions."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

CONDITIONS = ("${{steps.{need}.number}} > 100", "${{steps.{need}.digest}} != null", "false")


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    """A DAG of up to six steps with every feature that steps have."""
    names = [f"s{index}" for index in range(draw(st.integers(1, 6)))]
    steps = {name: draw(step(names[:index])) for index, name in enumerate(names)}
    order = draw(st.permutations(names))
    return {
        "name": "random",
        "inputs": {"items": {"default": [1, "two", None, 4, {}]}},
        "steps": {name: steps[name] for name in order},
    }


@st.composite
def step(draw: st.DrawFn, before: list[str]) -> dict[str, Any]:
    needs = draw(st.lists(st.sampled_from(before), unique=True, max_size=2)) if before else []
    arguments: dict[str, Any] = {need: f"${{steps.{need}}}" for need in needs}
    found: dict[str, Any] = {"function": "f", "idempotent": draw(st.booleans())}
    if draw(st.integers(0, 3)) == 0:
        found["for_each"] = draw(
            st.sampled_from(["${inputs.items}", [], *(f"${{steps.{n}.list}}" for n in needs)])
        )
        found["max_parallel"] = draw(st.sampled_from((1, 2, 100)))
        arguments["item"] = "${item}"
    if needs and draw(st.integers(0, 3)) == 0:
        found["when"] = draw(st.sampled_from(CONDITIONS)).format(need=needs[0])
    if before and draw(st.booleans()):
        found["after"] = [draw(st.sampled_from(before))]
    if draw(st.booleans()):
        found["compensate"] = {
            "function": "undo",
            "with": {"was": "${output}"},
            "idempotent": draw(st.booleans()),
        }
    found["retry"] = {"attempts": draw(st.integers(1, 3))}
    found["on_failure"] = draw(st.sampled_from(("fail", "continue")))
    return {**found, "with": arguments}


FAILURES = st.dictionaries(st.sampled_from([f"s{i}" for i in range(6)]), st.integers(1, 3))
"""How often each step fails before it succeeds."""
