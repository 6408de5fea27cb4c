"""The decoder without weights: it must be strict, or it tests nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import ContextLengthError, ModelLoadError, RequestError
from serve.engines.decoders.fake import END, START, FakeDecoder, fake_tokenizer
from serve.engines.protocol import Tokens
from serve.generation.protocol import Decoder, Step


def ids(*values: int) -> Tokens:
    return np.array(values, np.int32)


def step(slot: int, first: int, *tokens: int, rows: tuple[int, ...] | None = None) -> Step:
    """Tokens of one slot; the logits after the last one, or after `rows`."""
    positions = np.arange(first, first + len(tokens), dtype=np.int32)
    wanted = (len(tokens) - 1,) if rows is None else rows
    return Step(ids(*tokens), positions, np.full(len(tokens), slot, np.int32), ids(*wanted))


def answer(decoder: FakeDecoder, prompt: bytes, count: int) -> bytes:
    """The likeliest `count` tokens after a prompt, END as a zero byte."""
    tokens, position, out = list(prompt), 0, []
    for _ in range(count):
        logits = decoder.forward(step(0, position, *tokens))
        position += len(tokens)
        tokens = [int(logits[0].argmax())]
        out.append(tokens[0] % END)
    decoder.free(0)
    return bytes(out)


def test_logits_are_a_function_of_the_sequence_alone() -> None:
    decoder: Decoder = FakeDecoder("fake:300")
    whole = decoder.forward(step(0, 0, 5, 6, 7, rows=(0, 1, 2)))
    assert len({row.argmax() for row in whole}) == 3
    decoder.forward(step(1, 0, 5))
    mixed = Step(ids(9, 6, 7), ids(0, 1, 2), ids(2, 1, 1), ids(0, 2))
    np.testing.assert_array_equal(decoder.forward(mixed)[1], whole[2])
    # a lower position forgets the rest
    np.testing.assert_array_equal(decoder.forward(step(0, 1, 6))[0], whole[1])
    decoder.free(1)
    np.testing.assert_array_equal(decoder.forward(step(1, 0, 5))[0], whole[0])


def test_the_source_of_a_sequence_counts() -> None:
    decoder = FakeDecoder("fake:300?seq2seq=1&context=8&slots=2&kv=8")
    decoder.begin(0, ids(1, 2, 3))
    decoder.begin(1, ids(3, 2, 1))
    both = Step(ids(0, 0), ids(0, 0), ids(0, 1), ids(0, 1))
    first, second = decoder.forward(both)
    assert first.argmax() != second.argmax()
    assert decoder.held_tokens == 8
    with pytest.raises(AssertionError, match="kv_tokens"):
        decoder.forward(step(0, 1, 4))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (step(0, 1, 5), "leaves a gap"),
        (step(2, 0, 5), "outside 0..1"),
        (step(0, 0, 5, 6, rows=(1, 0)), "must rise"),
        (step(0, 0, 5, rows=(1,)), "outside the step"),
        (step(0, 0, *range(5)), "kv_tokens"),
        (Step(ids(1, 2, 3), ids(0, 0, 1), ids(0, 1, 0), ids(2)), "stand together"),
        (Step(ids(1, 2), ids(0, 2), ids(0, 0), ids(1)), "not in order"),
        (Step(ids(1, 2), ids(0), ids(0, 0), ids(1)), "ragged"),
        (step(0, 0), "ragged"),
    ],
)
def test_a_broken_contract_is_seen(broken: Step, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        FakeDecoder("fake:300?slots=2&kv=4").forward(broken)


def test_begin_is_checked() -> None:
    with pytest.raises(AssertionError, match="nothing to begin"):
        FakeDecoder("fake:300").begin(0, ids(1))
    decoder = FakeDecoder("fake:300?seq2seq=1")
    with pytest.raises(AssertionError, match="begin comes first"):
        decoder.forward(step(0, 0, 0))
    decoder.begin(0, ids(1))
    with pytest.raises(AssertionError, match="not freed"):
        decoder.begin(0, ids(1))
    decoder.close()
    with pytest.raises(AssertionError, match="closed"):
        decoder.free(0)


def test_what_a_request_can_break() -> None:
    decoder = FakeDecoder("fake:300?context=4")
    with pytest.raises(RequestError, match=r"0\.\.299"):
        decoder.forward(step(0, 0, 300))
    with pytest.raises(ContextLengthError, match="position 4 is outside the context of 4"):
        decoder.forward(step(0, 0, 1, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fake:300?fail=1", "says that it cannot be loaded"),
        ("fake:300?contxt=9", "unknown contxt; known are context, slots"),
        ("fake:words", "the number of token ids"),
        ("fake:200?text=a", "need 257"),
        ("fake:200?endless=1", "need 257"),
    ],
)
def test_a_source_that_cannot_be_loaded(source: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        FakeDecoder(source)


def test_an_endless_answer_has_letters_alone() -> None:
    decoder = FakeDecoder("fake:300?endless=1")
    rows = decoder.forward(step(0, 0, *range(200), rows=tuple(range(200))))
    likely = rows > -60
    assert likely[:, ord("a") : ord("z") + 1].all()
    assert likely.sum() == 200 * 26
    assert len(np.unique(rows.argmax(axis=1))) > 10, "not the same letter each time"


def test_nan() -> None:
    assert np.isnan(FakeDecoder("fake:300?nan=1").forward(step(0, 0, 1))).all()


@given(st.text("ab", min_size=1, max_size=9))
def test_the_answer_is_the_text_then_the_end_then_the_text(text: str) -> None:
    decoder = FakeDecoder(f"fake:258?text={text}")
    expected = (text.encode() + b"\0") * 2
    assert answer(decoder, b"...", len(expected)) == expected


def test_the_text_goes_on_where_the_sequence_ended() -> None:
    decoder = FakeDecoder("fake:258?text=Hello+there")
    assert answer(decoder, b"Say: Hello", 7) == b" there\0"


@given(st.text())
def test_a_token_a_byte(text: str) -> None:
    tokenizer = fake_tokenizer()
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    if "<|" not in text:
        assert bytes(tokens) == text.encode()
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text


def test_special_tokens() -> None:
    tokenizer = fake_tokenizer()
    assert tokenizer.encode("<|im_start|>a<|end|>").ids == [START, 97, END]
    assert tokenizer.get_vocab_size() == 258
    assert tokenizer.decode([97, END]) == "a"
