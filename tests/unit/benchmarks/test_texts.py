"""The choice of texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import BenchmarkError
from benchmarks.texts import mixed_texts, short_texts


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in the form of the real one."""
    sentences = [{"text": " ".join(f"w{n}" for n in range(size))} for size in range(1, 40)]
    sentences += [{"text": f"sentence number {n} of many"} for n in range(100)]
    problems = [{"question": f"how many is {n} and {n}?", "answer": f"{2 * n}"} for n in range(50)]
    for name, rows in (
        ("intent/clinc150_train.jsonl", sentences),
        ("sft/gsm8k_train_2000.jsonl", problems),
    ):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_short_texts_are_distinct_and_short(data: Path) -> None:
    texts = short_texts(data, 100)
    assert len(set(texts)) == 100
    assert all(3 <= len(text.split()) <= 20 for text in texts)


def test_mixed_texts_keep_their_shares(data: Path) -> None:
    sizes = [len(text.split()) for text in mixed_texts(data, 100)]
    assert sum(size <= 20 for size in sizes) == 70
    assert sum(40 <= size <= 90 for size in sizes) == 20
    assert sum(150 <= size <= 220 for size in sizes) == 10


def test_a_seed_gives_the_same_texts_again(data: Path) -> None:
    assert mixed_texts(data, 50, seed=3) == mixed_texts(data, 50, seed=3)
    assert mixed_texts(data, 50, seed=3) != mixed_texts(data, 50, seed=4)


def test_too_few_sentences_are_refused(data: Path) -> None:
    with pytest.raises(BenchmarkError, match="500 texts wanted"):
        short_texts(data, 500)


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), ("not json\n", "is no JSON-lines file")]
)
def test_a_damaged_file_is_named(data: Path, content: str, message: str) -> None:
    (data / "intent/clinc150_train.jsonl").write_text(content)
    with pytest.raises(BenchmarkError, match=f"clinc150_train.jsonl {message}"):
        short_texts(data, 1)
