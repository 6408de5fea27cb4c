"""What the `arguments` of a train step may say, by recipe.

They may come out of a workflow's inputs, so a name that begins with a dash must not become an
option. And nothing in them may reach past this cluster or take the place of what is there: what
publishes on the Hugging Face Hub or overwrites is for somebody at the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.workflow.tasks import StepError


@dataclass(frozen=True, slots=True)
class _Words:
    """Attributes: how many words stand without an option, options with a value, and flags."""

    positional: int = 0
    options: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()


_RUN = _Words(
    0, frozenset({"--name", "--model", "--data", "--publish"}), frozenset({"--allow-inexact"})
)
_ALLOWED: Mapping[str, _Words] = {
    "sft": _RUN,
    "dpo": _RUN,
    "embed": _RUN,
    "tune": _Words(),
    "eval": _Words(0, frozenset({"--model", "--adapter", "--output"})),
    "head": _Words(
        0,
        frozenset({"--data", "--to", "--model", "--eval", "--labels", "--teacher", "--publish"}),
    ),
    "merge": _Words(1, frozenset({"--to", "--base", "--precision"})),
    "export": _Words(1, frozenset({"--to", "--base", "--format", "--quantization"})),
    "publish": _Words(2),
}


def check_words(recipe: str, words: Sequence[str]) -> None:
    """Refuse arguments that a train step may not have.

    Args:
        recipe: Of the step.
        words: In order, as for a command line.

    Raises:
        StepError: One is not allowed; the message names those that are.
    """
    allowed = _ALLOWED[recipe]
    positional = 0
    left = iter(words)
    for word in left:
        name, sign, _ = word.partition("=")
        if not word.startswith("-"):
            positional += 1
            if positional > allowed.positional:
                raise _refused(recipe, word, f"{allowed.positional} words stand without an option")
        elif name in allowed.options:
            if not sign:
                _check_value(recipe, name, left)
        elif word not in allowed.flags:
            known = ", ".join(sorted(allowed.options | allowed.flags)) or "none"
            raise _refused(recipe, word, f"allowed in a workflow: {known}")


def _check_value(recipe: str, name: str, left: Iterator[str]) -> None:
    value = next(left, "")
    if not value or value.startswith("-"):
        raise _refused(recipe, value, f"{name} needs a value, which begins with no dash")


def _refused(recipe: str, word: str, why: str) -> StepError:
    return StepError(
        "invalid",
        f"train.arguments: {recipe} cannot have {word[:80]!r} ({why}); `ironcliw train {recipe}` "
        "has the others",
        retryable=False,
    )
