"""How well decisions by embeddings answer CLINC150: accuracy, calibration, refusal.

Pure functions of data and vectors. The labels' names alone, then 5 and 10 examples a label drawn
from the train split, mean of five draws; judged on the validation splits.

Shapes: N texts, L labels, D embedding dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.harness import BenchmarkError
from serve.decisions.heads import IN_SCOPE_THRESHOLD, Head, few_shot_head, label_texts, names_head

Embed = Callable[[list[str]], np.ndarray]
Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]
Embedded = tuple[Matrix, list[str]]

SHOTS = (5, 10)
SEEDS = range(5)
BINS = 15
_NAMES = "label names"


@dataclass(frozen=True, slots=True)
class Split:
    """Texts of a file of the data folder.

    Attributes:
        texts: N of them.
        labels: The name of each one's label; `oos` where none fits.
    """

    texts: list[str]
    labels: list[str]


def load_split(folder: Path, name: str) -> Split:
    """A split of CLINC150.

    Args:
        folder: The benchmarks' data folder.
        name: `train`, `val`, `oos_train` or `oos_val`.

    Raises:
        BenchmarkError: the file is absent, empty, or not JSON lines of texts and labels.
    """
    path = folder / "intent" / f"clinc150_{name}.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        split = Split([row["text"] for row in rows], [row["label"] for row in rows])
    except FileNotFoundError:
        raise BenchmarkError(
            f"{path} does not exist; fetch it with `ironcliw bench fetch-data`"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{path} is not lines of texts and labels: {error!r}") from error
    if not rows:
        raise BenchmarkError(f"{path} is empty; fetch it again with `ironcliw bench fetch-data`")
    return split


def targets_of(split: Split, labels: Sequence[str]) -> npt.NDArray[np.intp]:
    """The index [N] of each text's label.

    Raises:
        BenchmarkError: a text has another label.
    """
    order = {label: index for index, label in enumerate(labels)}
    unknown = set(split.labels) - set(order)
    if unknown:
        raise BenchmarkError(f"labels {sorted(unknown)} are not among the {len(labels)} known ones")
    return np.array([order[label] for label in split.labels], dtype=np.intp)


def draw_examples(
    targets: npt.NDArray[np.intp], count: int, generator: np.random.Generator
) -> list[npt.NDArray[np.intp]]:
    """Indices of `count` texts of each label, without repetition; fewer where there are fewer."""
    labels = range(int(targets.max()) + 1)
    return [generator.permutation(np.flatnonzero(targets == label))[:count] for label in labels]


def accuracy(probabilities: Floats, targets: npt.NDArray[np.intp]) -> float:
    """Share of texts whose likeliest label is theirs; probabilities [N, L]."""
    return float(np.mean(probabilities.argmax(axis=1) == targets))


def calibration_error(
    probabilities: Floats, targets: npt.NDArray[np.intp], bins: int = BINS
) -> float:
    """Expected calibration error of the likeliest label over bins of equal width.

    The mean of |share right - mean confidence| over the bins, weighted by the texts in each (Guo
    et al. 2017, arXiv:1706.04599).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    bin_of = np.minimum((confidence * bins).astype(np.intp), bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(targets))


def auroc(positive: Floats, negative: Floats) -> float:
    """Probability that a positive's score is above a negative's; a tie counts half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).mean() / (2 * len(negative)))


def measure(embed: Embed, folder: Path) -> dict[str, float]:
    """Every figure, by a name such as `label names accuracy` or `5 examples auroc`.

    Args:
        embed: Vectors of texts, float32 [N, D], unit length.
        folder: The benchmarks' data folder.

    Returns:
        `accuracy`, `ece`, `auroc`, and the shares in 0 to 1 of texts answered at the threshold:
        `answered in scope` (more is better), `answered out of scope` (less is better).

    Raises:
        BenchmarkError: the data is absent or damaged.
    """
    train, val = load_split(folder, "train"), load_split(folder, "val")
    names = sorted(set(train.labels))
    targets, train_targets = targets_of(val, names), targets_of(train, names)
    inside = _embedded(embed, val.texts)
    outside = _embedded(embed, load_split(folder, "oos_val").texts)
    labels = [_matrix(embed, label_texts(name, None)) for name in names]
    figures = _judge(_NAMES, names_head(labels), inside, targets, outside)
    for count in SHOTS:
        draws = []
        for seed in SEEDS:
            drawn = draw_examples(train_targets, count, np.random.default_rng(seed))
            shown = [[train.texts[i] for i in indices] for indices in drawn]
            vectors = _matrix(embed, [text for texts in shown for text in texts])
            ends = np.cumsum([len(texts) for texts in shown])[:-1]
            head = few_shot_head(labels, np.split(vectors, ends), shown)
            draws.append(_judge(f"{count} examples", head, inside, targets, outside))
        figures |= {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
    return figures


def _judge(
    what: str, head: Head, given: Embedded, targets: npt.NDArray[np.intp], outside: Embedded
) -> dict[str, float]:
    inside, beyond = head(*given), head(*outside)
    return {
        f"{what} accuracy": accuracy(inside.probabilities, targets),
        f"{what} ece": calibration_error(inside.probabilities, targets),
        f"{what} auroc": auroc(inside.in_scope, beyond.in_scope),
        f"{what} answered in scope": float(np.mean(inside.in_scope >= IN_SCOPE_THRESHOLD)),
        f"{what} answered out of scope": float(np.mean(beyond.in_scope >= IN_SCOPE_THRESHOLD)),
    }


def _embedded(embed: Embed, texts: list[str]) -> Embedded:
    return _matrix(embed, texts), texts


def _matrix(embed: Embed, texts: Iterable[str]) -> Matrix:
    return np.asarray(embed(list(texts)), dtype=np.float32)
