"""Records of two answers, one preferred, to examples; `train.data.formats` has the forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.data.builders import Value, as_object, prompt_completion, sharegpt
from train.data.examples import Completion, Conversation, Preference, content_key
from train.data.problems import RowError, shortened


def preference(value: Value) -> Preference:
    chosen, rejected = value["chosen"], value["rejected"]
    prompt = value.get("prompt")
    if prompt is None:
        prompt, chosen, rejected = _common_prompt(chosen, rejected)
    return _compared(
        *(
            prompt_completion({**value, "prompt": prompt, "completion": end}, name)
            for name, end in (("chosen", chosen), ("rejected", rejected))
        )
    )


def _common_prompt(chosen: Any, rejected: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The messages that two conversations begin with, and what follows in each."""
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise RowError(
            "bad-messages",
            f"there is no prompt, and chosen is {shortened(chosen)}",
            "give the prompt, or chosen and rejected as two whole lists of messages",
        )
    pairs = enumerate(zip(chosen, rejected, strict=False))
    common = next((at for at, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))
    if common == 0:
        raise RowError(
            "bad-messages",
            "there is no prompt, and chosen and rejected differ from their first message on",
            "begin both with the same question",
        )
    if common == len(chosen) == len(rejected):
        raise _equal_answers()
    # what follows must have an answer of its own
    return chosen[:common], chosen[common:], rejected[common:]


def sharegpt_preference(value: Value) -> Preference:
    turns = value["conversations"]
    if not isinstance(turns, list):
        raise RowError(
            "bad-messages",
            f"conversations is {shortened(turns)}",
            "give a list of messages, each with from and value",
        )
    ends = []
    for name in ("chosen", "rejected"):
        end = value[name]
        if not isinstance(end, Mapping):
            raise RowError(
                "bad-messages", f"{name} is {shortened(end)}", "give it a message: from and value"
            )
        given = [*(as_object(turn) | {"weight": 0} for turn in turns), end]
        ends.append(sharegpt({**value, "conversations": given}))
    return _compared(*ends)


def _compared(chosen: Conversation | Completion, rejected: Conversation | Completion) -> Preference:
    if content_key(chosen) == content_key(rejected):
        raise _equal_answers()
    return Preference(chosen, rejected)


def _equal_answers() -> RowError:
    """Nothing could be learnt from such a row: it is counted, and stops no run."""
    return RowError(
        "equal-answers",
        "chosen and rejected are the same but for white space",
        "it is left out",
        stops=False,
    )
