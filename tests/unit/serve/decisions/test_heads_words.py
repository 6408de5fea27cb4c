"""The words of a text as features."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve.decisions.lexical import WORD_FEATURES, word_features


@given(st.lists(st.text(max_size=40), max_size=5))
def test_rows_have_unit_length_or_no_word(texts: list[str]) -> None:
    features = word_features(texts)
    assert features.shape == (len(texts), WORD_FEATURES)
    assert features.dtype == np.float32
    lengths = np.linalg.norm(features, axis=1)
    assert (np.isclose(lengths, 1, atol=1e-5) | (lengths == 0)).all()
    for row, text in zip(features, texts, strict=True):
        np.testing.assert_array_equal(word_features([text])[0], row)


def test_words_count_and_nothing_between_them() -> None:
    one, other, more, unlike = word_features(
        ["Play some MUSIC!", "music,play  some", "play some music music", "book a flight"]
    )
    np.testing.assert_array_equal(one, other)
    assert np.count_nonzero(one) == 3
    assert 0.8 < one @ more < 0.999
    assert abs(one @ unlike) < 0.5
    assert not word_features(["", "?! ..."]).any()


def test_words_of_any_language_count() -> None:
    # the sharp s is "ss" in capitals
    one, other, unlike = word_features(
        ["Stra\u00dfe in Z\u00fcrich", "STRASSE IN Z\u00dcRICH", "\u0443\u043b\u0438\u0446\u0430"]
    )
    np.testing.assert_array_equal(one, other)
    assert np.count_nonzero(unlike) == 1
    assert not word_features(["\ud800"]).any()


def test_a_text_has_the_same_features_on_every_machine() -> None:
    # "music" has the CRC-32 0xcd52224a: the sign bit is set; column 0x4a of 512
    (row,) = word_features(["music"])
    assert row[0x4A] == 1
    assert np.count_nonzero(row) == 1


def test_signs_are_of_both_kinds_and_columns_spread() -> None:
    features = word_features([f"word{n}" for n in range(2000)])
    assert abs(features.sum()) < 200
    assert np.count_nonzero(np.abs(features).sum(axis=0)) > 0.9 * WORD_FEATURES


def test_a_text_costs_little() -> None:
    text = ["please tell me what the balance of my account is"]
    taken = []
    for _ in range(20):
        started = time.process_time()
        for _ in range(100):
            word_features(text)
        taken.append((time.process_time() - started) / 100)
    # 15 us on a quiet core; the bound leaves room for a busy one
    assert min(taken) < 200e-6
