"""Tokens to text: whole characters, stop strings, log-probabilities that belong to the text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from serve.engines.decoders.fake import END, fake_tokenizer
from serve.generation.protocol import Delta, TokenDraw
from serve.generation.stream import AnswerText, IncrementalText, StopStrings

BYTES = fake_tokenizer()
BAD = "\ufffd"


def byte_fallback() -> Any:
    """Like Llama 2's: words with U+2581 for a space, and a token for every byte."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    words = ["\u2581", "\u2581he", "l", "lo", "\u2581wor", "ld", "h", "e"]
    vocabulary |= {word: 259 + number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


FALLBACK = byte_fallback()


def texts_of(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    stream = IncrementalText(tokenizer.decode)
    return [*(stream.push(token) for token in tokens), stream.finish()]


class TestIncrementalText:
    def test_a_character_comes_out_whole(self) -> None:
        assert texts_of(BYTES, "h\u00e9\U0001f600x".encode()) == [
            *("h", "", "\u00e9", "", "", "", "\U0001f600", "x"),
            "",
        ]

    def test_an_incomplete_rest_becomes_a_replacement_character(self) -> None:
        assert texts_of(BYTES, b"a\xe2\x82") == ["a", "", "", BAD]
        assert texts_of(FALLBACK, [265, 3 + 0xE2]) == ["h", "", BAD]

    def test_broken_bytes_inside_a_text_do_not_stop_it(self) -> None:
        pieces = texts_of(BYTES, b"a\xffbc")
        assert pieces == ["a", "", BAD + "b", "c", ""]

    def test_a_byte_fallback_decoder_that_takes_back_what_it_wrote(self) -> None:
        # the run <0x41><0xFF> reads as two replacement characters, but "A" is out already
        assert texts_of(FALLBACK, [3 + 0x41, 3 + 0xFF, 266]) == ["A", "", BAD + "e", ""]
        smile = [3 + byte for byte in "\U0001f600".encode()]
        assert "".join(texts_of(FALLBACK, [*smile, 3 + 0xFF, 266])) == "\U0001f600" + BAD + "e"

    def test_spaces_of_words_are_kept_behind_special_tokens(self) -> None:
        tokens = [260, 261, 262, 1, 263, 264]
        assert "".join(texts_of(FALLBACK, tokens)) == FALLBACK.decode(tokens) == "hello world"

    def test_endless_garbage_is_not_decoded_again_and_again(self) -> None:
        seen: list[int] = []

        def decode(tokens: Sequence[int]) -> str:
            seen.append(len(tokens))
            return str(BYTES.decode(tokens))

        stream = IncrementalText(decode)
        text = "".join(stream.push(0xFF) for _ in range(1000)) + stream.finish()
        assert text == BAD * 1000
        assert max(seen) <= 80

    @settings(deadline=None)
    @given(st.binary(max_size=60))
    def test_any_bytes_give_the_text_of_all_together(self, content: bytes) -> None:
        pieces = texts_of(BYTES, content)
        assert "".join(pieces) == BYTES.decode(list(content))
        assert "".join(pieces) == content.decode(errors="replace")

    @example(" \U00010000")  # the space is stripped, but part of the run of bytes
    @settings(deadline=None, max_examples=300)
    @given(st.text(max_size=30))
    def test_byte_fallback_gives_any_valid_text(self, content: str) -> None:
        tokens = [3 + byte for byte in content.encode()]
        assert "".join(texts_of(FALLBACK, tokens)) == FALLBACK.decode(tokens)

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 266), max_size=40))
    def test_byte_fallback_never_fails_and_never_writes_half_a_character(
        self, tokens: list[int]
    ) -> None:
        text = "".join(texts_of(FALLBACK, tokens))
        if BAD not in FALLBACK.decode(tokens):
            assert text == FALLBACK.decode(tokens)


def first_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The definition: read character by character, stop as soon as a stop string stands there."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


def split(text: str, cuts: Sequence[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


class TestStopStrings:
    def test_a_stop_string_that_spans_pieces_is_held_back_and_cut(self) -> None:
        stops = StopStrings(["###"])
        assert [stops.push(piece) for piece in ("a#", "#", "b##", "#c", "d")] == [
            "a",
            "",
            "##b",
            "",
            "",
        ]
        assert stops.found == "###"
        assert stops.finish() == ""

    def test_what_might_have_become_one_comes_out_at_the_end(self) -> None:
        stops = StopStrings(["END"])
        assert stops.push("an EN") == "an "
        assert stops.finish() == "EN"
        assert stops.found is None

    @settings(max_examples=500, deadline=None)
    @given(
        st.text(alphabet="abc", max_size=24),
        st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4),
        st.lists(st.integers(0, 24), max_size=12),
    )
    def test_the_split_does_not_matter(self, text: str, stops: list[str], cuts: list[int]) -> None:
        machine = StopStrings(stops)
        out = "".join(machine.push(piece) for piece in split(text, cuts))
        expected, stop = first_stop(text, stops)
        assert (out + machine.finish(), machine.found) == (expected, stop)


def deltas_of(content: bytes, cuts: Sequence[int], finish: str | None = "stop") -> list[Delta]:
    """Deltas with one or more tokens, a byte each."""
    edges = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    made = [
        Delta(tuple(TokenDraw(token, -1.0) for token in content[a:b])) for a, b in pairwise(edges)
    ]
    return [*made, Delta(finish=finish)]  # type: ignore[arg-type]


class TestAnswerText:
    def run(self, deltas: Sequence[Delta], stops: Sequence[str]) -> tuple[str, list[int], Any]:
        answer = AnswerText(BYTES.decode, stops)
        text, draws = "", []
        for delta in deltas:
            piece = answer.push(delta)
            for offset, draw in piece.draws:
                draws.append(draw.id)
                assert offset <= len(text) + len(piece.text)
            text += piece.text
            if piece.finish is not None:
                return text, draws, piece.finish
        raise AssertionError("the answer did not end")

    @settings(max_examples=300, deadline=None)
    @given(
        st.text(alphabet="ab\u00e9\U0001f600", max_size=16),
        st.lists(st.text(alphabet="ab\u00e9\U0001f600", min_size=1, max_size=3), max_size=3),
        st.lists(st.integers(0, 64), max_size=20),
    )
    def test_text_and_tokens_end_at_the_first_stop_string(
        self, content: str, stops: list[str], cuts: list[int]
    ) -> None:
        text, draws, finish = self.run(deltas_of(content.encode(), cuts, "length"), stops)
        expected, stop = first_stop(content, stops)
        assert text == expected
        assert finish == ("length" if stop is None else "stop")
        assert bytes(draws) == expected.encode()

    def test_the_model_s_own_end_gives_what_was_held_back(self) -> None:
        text, draws, finish = self.run(deltas_of(b"ab\xc3", [1, 2]), ["bc"])
        assert (text, bytes(draws), finish) == ("ab" + BAD, b"ab\xc3", "stop")

    def test_a_special_token_is_no_text(self) -> None:
        deltas = [Delta((TokenDraw(65), TokenDraw(END), TokenDraw(66))), Delta(finish="length")]
        assert self.run(deltas, []) == ("AB", [65, END, 66], "length")
