"""A cascade as its owner makes it: a head, then a language model, then inference.

A head is fitted and published, the cascade's numbers are fitted by what the running service says,
the printed lines go into ironcliw.toml, and each text ends at the first step that is sure of it.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.integration.conftest import Head
from tests.integration.trained_nli import make_nli
from tests.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

HEAD, LM, NLI = "all-MiniLM-L6-v2:cards", "SmolLM2-135M-Instruct", "small-nli"
SAID = {
    "lost card": ("I cannot find my card", "my card is gone", "I left my card somewhere"),
    "stolen card": ("somebody took my card", "my card was in the bag they took", "a thief has it"),
    "late card": ("my card has not come", "where is the card you sent", "I wait for my new card"),
    "card fees": ("why did you charge me", "the card costs too much", "what is this payment for"),
}
BEFORE = ("", "hello, ", "good morning, ", "sorry to ask, but ", "quick question: ")
BEHIND = ("", ", please help", ", what now", ", thank you", " since last week", " again")


def texts(cores: slice, behind: slice) -> list[tuple[str, str]]:
    """Texts and their labels, made of some of what is said."""
    return [
        (f"{before}{core}{end}", label)
        for label, said in SAID.items()
        for core in said[cores]
        for before in BEFORE
        for end in BEHIND[behind]
    ]


ALL = slice(None)
LEARNED = texts(slice(2), slice(4))
OTHERS = texts(slice(2), slice(4, None)) + texts(slice(2, None), ALL)
"""Of which the head has seen nearly the same, and those that it has not."""
LABELS = sorted(SAID)


def rows(file: Path, texts: Sequence[tuple[str, str]]) -> str:
    lines = [json.dumps({"text": text, "label": label}) for text, label in texts]
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@dataclass(frozen=True)
class Cascade:
    """A head whose settings have the cascade `router`, and what was printed when it was made."""

    head: Head
    printed: dict[str, Any]

    @property
    def steps(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = tomllib.loads(self.printed["settings"])["serve"]["cascades"][
            "router"
        ]
        return found

    def ask(self, model: str, text: str) -> Any:
        question = {
            "type": "choice",
            "instructions": "Which label fits the text best?",
            "choices": [{"value": label} for label in LABELS],
        }
        body = {"model": model, "input": text, "questions": [question], "refusal_threshold": 0}
        answer = httpx.post(f"{self.head.url}/v1/decisions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def expected(self, text: str) -> tuple[str, int, float]:
        """Who decides, the tokens of all steps that are asked for it, and how near that was."""
        tokens, nearest = 0, 1.0
        for step in self.steps:
            answer = self.ask(step["model"], text)
            tokens += answer["usage"]["input_tokens"]
            given = [each["probability"] for each in answer["answers"][0]["probabilities"]]
            powers = np.array(given) ** (1 / step["temperature"])
            sure = float((powers / powers.sum()).max())
            nearest = min(nearest, abs(sure - step.get("confidence", 0.0)))
            if sure >= step.get("confidence", 0.0):
                return step["model"], tokens, nearest
        raise AssertionError("the last step answers whatever is left")


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cascade]:
    folder = tmp_path_factory.mktemp("cascade")
    head = Head(folder)
    head.state.mkdir(parents=True)
    nli = make_nli(folder / "nli", LEARNED + OTHERS)
    settings = head.state / "ironcliw.toml"
    settings.write_text(f'[models.{NLI}]\nsource = "dir:{nli}"\ntask = "nli"\n')
    learned = rows(folder / "learned.jsonl", LEARNED)
    published = head.json(
        *("train", "head", "--data", learned, "--to", str(folder / "head"), "--publish", "cards")
    )
    assert (published["model"], published["version"]) == (HEAD, 1)
    others = rows(folder / "others.jsonl", OTHERS)
    assert head.run("up").returncode == 0
    steps = [word for model in (HEAD, LM, NLI) for word in ("--step", model)]
    printed = head.json(
        *("train", "cascade", "--name", "router", "--rows", others, "--loss", "0.02", *steps)
    )
    # as it is told to: pasted behind what is there
    settings.write_text(settings.read_text() + printed["settings"])
    assert head.run("down").returncode == 0
    assert head.run("up").returncode == 0
    yield Cascade(head, printed)
    assert head.run("down").returncode == 0
    head.remove()


def test_what_was_printed_is_near_to_what_was_asked_for(cascade: Cascade) -> None:
    printed = cascade.printed
    first, _, last = printed["steps"]
    assert first["share"] > 0.2
    assert last["alone"] > 0.9
    assert printed["accuracy"] >= last["alone"] - 0.02 - 0.05  # of texts that were not fitted to
    assert printed["milliseconds"] > 0
    assert (cascade.steps[0]["model"], cascade.steps[-1]["model"]) == (HEAD, NLI)


def test_each_text_ends_at_the_first_step_that_is_sure(cascade: Cascade) -> None:
    decided: Counter[str] = Counter()
    right = 0
    asked = OTHERS[::3]
    for text, label in asked:
        answer = cascade.ask("router", text)
        [one] = answer["answers"]
        decided[one["decided_by"]] += 1
        right += one["choice"] == label
        by, tokens, nearest = cascade.expected(text)
        if nearest < 1e-3:  # another batch may round to the other side
            continue
        assert one["decided_by"] == by, text
        # what comes behind the step that is sure is not asked
        assert answer["usage"]["input_tokens"] == tokens, text
    assert set(decided) == {step["model"] for step in cascade.steps}
    assert decided[HEAD] > 0.2 * len(asked)
    assert right >= 0.9 * len(asked)

    def counted() -> bool:
        text = httpx.get(f"{cascade.head.url}/metrics", timeout=10).text
        found = {
            model: sum(
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("ray_ironcliw_cascade_questions_total{")
                and f'model="{model}"' in line
                and 'outcome="decided"' in line
            )
            for model in decided
        }
        return found == dict(decided)

    wait_for(counted, 60)
