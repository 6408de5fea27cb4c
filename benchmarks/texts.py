"""The texts that every contestant gets: real ones, the same for all, chosen by a seed.

`short` are CLINC150 sentences of 3 to 20 words. `mixed` is 70 % short, 20 % of 40 to 90 words and
10 % of 150 to 220 words, the longer ones joined from GSM8K questions and answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import BenchmarkError

SHORT_WORDS = (3, 20)
MEDIUM_WORDS = (40, 90)
LONG_WORDS = (150, 220)
MEDIUM_SHARE, LONG_SHARE = 0.2, 0.1
_SENTENCES = "intent/clinc150_train.jsonl"
_PROBLEMS = "sft/gsm8k_train_2000.jsonl"


def short_texts(data: Path, count: int, seed: int = 0) -> list[str]:
    """`count` distinct sentences of 3 to 20 words.

    Raises:
        BenchmarkError: the data folder lacks the file, or has too few sentences.
    """
    low, high = SHORT_WORDS
    sentences = (str(row["text"]) for row in _rows(data / _SENTENCES))
    fitting = sorted({text for text in sentences if low <= len(text.split()) <= high})
    if count > len(fitting):
        raise BenchmarkError(
            f"{count} texts wanted, {data / _SENTENCES} has {len(fitting)} of {low} to {high} words"
        )
    return random.Random(seed).sample(fitting, count)


def mixed_texts(data: Path, count: int, seed: int = 0) -> list[str]:
    """`count` texts of mixed length in random order; see the module's head for the shares.

    Raises:
        BenchmarkError: the data folder lacks a file, or has too few sentences.
    """
    generator = random.Random(seed)
    medium, long = round(count * MEDIUM_SHARE), round(count * LONG_SHARE)
    texts = short_texts(data, count - medium - long, seed)
    words = _endless_words(data / _PROBLEMS, generator)
    ranges = [MEDIUM_WORDS] * medium + [LONG_WORDS] * long
    texts += [" ".join(next(words) for _ in range(generator.randint(*span))) for span in ranges]
    generator.shuffle(texts)
    return texts


def _endless_words(path: Path, generator: random.Random) -> Iterator[str]:
    problems = [f"{row['question']} {row['answer']}".split() for row in _rows(path)]
    while True:
        generator.shuffle(problems)
        for problem in problems:
            yield from problem


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except FileNotFoundError:
        raise BenchmarkError(
            f"{path} does not exist; name the folder with --data or the setting bench.data, or "
            "fetch the files with `ironcliw bench fetch-data`"
        ) from None
    except ValueError as error:
        raise BenchmarkError(f"{path} is no JSON-lines file: {error}") from error
    if not rows:
        raise BenchmarkError(f"{path} is empty; fetch it again with `ironcliw bench fetch-data`")
    return rows
