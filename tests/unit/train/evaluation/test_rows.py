"""Questions, answers and labels out of tokenised rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ironcliw.errors import SettingsError
from tests.unit.train.evaluation.rows_of_text import END, TOKENIZER, encoded, text_rows
from train.data.masks import TokenRow
from train.data.plan import MicroBatch, in_order, pack
from train.data.tokenized import TokenizedData
from train.evaluation.checks import check_evaluation
from train.evaluation.labels import branches, find_labels
from train.evaluation.options import EvaluationOptions
from train.evaluation.rows import Question, answered, answers, question

PAIRS = (("play a song", "music"), ("is it wet", "weather"), ("will it rain", "weather"))


def options(**given: Any) -> EvaluationOptions:
    return EvaluationOptions.model_validate({"metrics": ["decision_accuracy"], **given})


def flagged(*rows: str) -> TokenizedData:
    """Rows of single-figure tokens; those in capitals are supervised: `abCD`."""
    made = [
        TokenRow(np.arange(len(row), dtype=np.int32), np.array([each.isupper() for each in row]))
        for row in rows
    ]
    return TokenizedData.of_rows(made, [(0, at + 1) for at in range(len(rows))], ["rows"])


def test_the_last_answer_is_asked_for() -> None:
    data = flagged("abCDefG", "aBCD")
    assert question(data, 0) == Question((0, 1, 2, 3, 4, 5), (6,))
    assert question(data, 1) == Question((0,), (1, 2, 3))


def test_the_answers_of_the_data_come_once_each_and_in_its_order() -> None:
    rows = ["abCDefG", "aBCD", "aB", "aBCD", "abcdeFG", "aBCDefG"]
    data = flagged(*rows)
    asked = (question(data, row).answer for row in range(len(rows)))
    assert answers(data) == list(dict.fromkeys(asked)) == [(6,), (1, 2, 3), (1,), (5, 6)]
    assert answers(flagged()) == []


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ("1111 111 1", [True, True, True]),
        ("0011 111 1", [True, True, True]),  # an earlier answer does not count
        ("1110 111 1", [False, True, True]),
        ("1101 011 0", [False, False, False]),
    ],
)
def test_an_answer_is_right_in_every_token(best: str, expected: list[bool]) -> None:
    data = flagged("abCDefGH", "aBCD", "aB")
    packed = pack(data, MicroBatch((0, 1, 2), 14, 8))
    flags = np.array([each == "1" for each in best if each != " "])
    assert answered(packed, flags) == expected


def test_rows_are_measured_in_order() -> None:
    data = flagged("abC", "abcD", "aB", "aBC")
    found = in_order(data, 6, 3)
    assert [batch.rows for batch in found] == [(0,), (1, 2)]
    assert [(batch.tokens, batch.supervised) for batch in found] == [(3, 1), (6, 2)]
    assert [batch.rows for batch in in_order(data, 7, 9)] == [(0, 1), (2, 3)]


def test_labels_of_the_data() -> None:
    held_out, train = text_rows(PAIRS[:1]), text_rows(PAIRS)
    found = find_labels(options(), None, held_out, train)
    assert found == [(*encoded("music"), END), (*encoded("weather"), END)]
    with pytest.raises(SettingsError, match="the data has 1 different answers; 2 to 1000"):
        find_labels(options(), None, held_out, held_out)


def test_labels_of_a_list() -> None:
    data = text_rows([("a", " music"), ("b", " weather")])
    given = options(labels=["weather", "alarm", "music "])
    found = find_labels(given, TOKENIZER, data, data)
    # one that is not in the data has the space and the end that the others have
    assert found == [(*encoded(f" {word}"), END) for word in ("weather", "alarm", "music")]
    with pytest.raises(SettingsError, match=r"the answer of rows.jsonl:2 is ' weather', which is"):
        find_labels(options(labels=["alarm", "music"]), TOKENIZER, data, data)


def test_labels_branch_from_the_prompt() -> None:
    asked = Question((7, 8, 9), (1,))
    first, second = branches(asked, [(1, 2, 3), (4,), (5, 6)], most_tokens=5)
    assert first.batch.tokens.tolist() == [7, 8, 9, 1, 2]
    assert first.batch.positions.tolist() == [0, 1, 2, 3, 4]
    assert first.batch.places.tolist() == [2, 3, 4, 2]
    assert first.batch.targets.tolist() == [1, 2, 3, 4]
    assert (first.ends, first.counts) == ((3, 5, 5), (3, 1))
    assert second.batch.tokens.tolist() == [7, 8, 9, 5]
    assert (second.ends, second.counts) == ((3, 4), (2,))


def test_what_cannot_be_measured_is_refused() -> None:
    data = text_rows(PAIRS)
    check_evaluation(EvaluationOptions(), None, data, TOKENIZER)
    check_evaluation(options(), data, data, TOKENIZER)
    with pytest.raises(SettingsError, match=r"no row is held out; set data.eval or data.eval_shar"):
        check_evaluation(options(), None, data, TOKENIZER)
    numbers = options(metrics=["exact_match"], match="last_number")
    with pytest.raises(SettingsError, match=r"the answer of rows.jsonl:1 has no number: 'music'"):
        check_evaluation(numbers, data, data, TOKENIZER)
    pattern = options(metrics=["exact_match"], match="regex", pattern="m.s|r")
    check_evaluation(pattern, data, data, TOKENIZER)
    pattern = options(metrics=["exact_match"], match="regex", pattern="m.s")
    with pytest.raises(SettingsError, match=r"rows.jsonl:2 has no match of 'm.s': 'weather'"):
        check_evaluation(pattern, data, data, TOKENIZER)
