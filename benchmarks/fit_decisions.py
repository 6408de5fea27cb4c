"""Fit the constants of `serve/decisions/calibration.py` and print them.

    python -m benchmarks.fit_decisions [--data FOLDER]

Reads CLINC150's train and oos_train splits alone. Calibration has to hold for other label sets
too, so it is fitted on random label sets of 2 to 150 labels, every size with the same weight. Out
of scope are then oos_train and texts of the labels left out.

Shapes: N texts, L labels, D embedding dimensions, F features.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.intent_accuracy import (
    Matrix,
    accuracy,
    auroc,
    calibration_error,
    draw_examples,
    load_split,
    targets_of,
)
from ironcliw.catalog import Catalog
from ironcliw.settings import Settings
from serve.decisions.calibration import (
    Calibration,
    scale_features,
    scope_features,
    softmax,
)
from serve.decisions.head_logistic import minimise
from serve.decisions.heads import few_shot_head, label_texts
from serve.engines.protocol import EmbeddingEngine, PackedTokens
from serve.engines.registry import Prepared, load_engine, load_preparer

MODEL = "all-MiniLM-L6-v2"
# labels -> random label sets drawn
LABEL_SETS = {2: 40, 5: 20, 20: 6, 77: 2, 150: 1}
SHOTS = (1, 3, 5, 10, 20)
TEXTS = 4000
# of all texts that are sent; CLINC150's test split has 18 %
OUT_OF_SCOPE_SHARE = 0.2
KEPT_IN_SCOPE = 0.95
_BATCH = 128
_ITERATIONS = 100

Floats = npt.NDArray[np.float64]
Vector = npt.NDArray[np.floating]


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    """The train splits and their vectors.

    Attributes:
        labels: For each of the labels float32 [K, D].
        vectors: float32 [N, D].
        texts: N.
        targets: [N].
        outside: float32 [M, D], of oos_train.
        outside_texts: M.
    """

    labels: list[Matrix]
    vectors: Matrix
    texts: list[str]
    targets: npt.NDArray[np.intp]
    outside: Matrix
    outside_texts: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A head on its held-out texts, and texts outside of its labels.

    Attributes:
        size: Labels.
        examples: Examples a label.
        logits: float64 [N, L].
        cosines: float64 [N, L].
        targets: [N].
        outside: Cosines, float64 [M, L].
        weight: Of the whole case in a fit.
    """

    size: int
    examples: int
    logits: Floats
    cosines: Floats
    targets: npt.NDArray[np.intp]
    outside: Floats
    weight: float


def load_data(folder: Path) -> Data:
    """Read and embed the train splits; a minute."""
    card, cache = Catalog()[MODEL], Settings().state_dir / "models"
    engine = load_engine(card, Settings().serve, cache)
    prepared = load_preparer(card, cache)
    train, outside = load_split(folder, "train"), load_split(folder, "oos_train")
    names = sorted(set(train.labels))
    labels = [embed(engine, prepared, label_texts(name, None)) for name in names]
    vectors, beyond = (embed(engine, prepared, split.texts) for split in (train, outside))
    targets = targets_of(train, names)
    return Data(labels, vectors, train.texts, targets, beyond, outside.texts)


def embed(engine: EmbeddingEngine, prepared: Prepared, texts: Sequence[str]) -> Matrix:
    """Vectors of texts, float32 [N, D], short ones first through the engine."""
    tokens = [item.tokens for item in prepared.encoder.encode(texts)]
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    vectors = np.empty((len(tokens), engine.dimensions), dtype=np.float32)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        vectors[batch] = engine.embed(PackedTokens.pack([tokens[index] for index in batch]))
    return vectors


def cases(data: Data, shots: Sequence[int], seed: int) -> Iterator[Case]:
    """Heads on random label sets of every size."""
    generator = np.random.default_rng(seed)
    for size, repeats in LABEL_SETS.items():
        for _ in range(repeats):
            chosen = np.sort(generator.permutation(len(data.labels))[:size])
            for examples in shots:
                yield _case(data, chosen, examples, generator, 1.0 / repeats)


def _case(
    data: Data,
    chosen: npt.NDArray[np.intp],
    examples: int,
    generator: np.random.Generator,
    weight: float,
) -> Case:
    member = np.isin(data.targets, chosen)
    inside, other = np.flatnonzero(member), np.flatnonzero(~member)
    targets = np.searchsorted(chosen, data.targets[inside])
    drawn = draw_examples(targets, examples, generator)
    labels = [data.labels[index] for index in chosen]
    shown = [inside[indices] for indices in drawn]
    head = few_shot_head(
        labels, [data.vectors[indices] for indices in shown], [_texts(data, i) for i in shown]
    )
    held_out = generator.permutation(np.delete(np.arange(len(inside)), np.concatenate(drawn)))
    held_out = held_out[:TEXTS]
    judged = inside[held_out]
    logits, cosines = head.evidence(data.vectors[judged], _texts(data, judged))
    beyond = generator.permutation(other)[: len(data.outside)]
    _, outside = head.evidence(
        np.concatenate([data.outside, data.vectors[beyond]]),
        [*data.outside_texts, *_texts(data, beyond)],
    )
    return Case(len(chosen), examples, logits, cosines, targets[held_out], outside, weight)


def _texts(data: Data, indices: npt.NDArray[np.intp]) -> list[str]:
    return [data.texts[index] for index in indices]


def fit_scale(found: Sequence[Case]) -> Floats:
    """Weights [4] of the logits' scale that minimise the cross-entropy of the right label."""
    features = [scale_features(case.cosines, case.examples) for case in found]

    def objective(weights: Vector) -> tuple[float, Vector]:
        value, gradient = 0.0, np.zeros(len(weights))
        for case, known in zip(found, features, strict=True):
            rows = np.arange(len(case.targets))
            scaled = np.exp(known @ weights)[:, None] * case.logits
            right = softmax(scaled)
            mean = (right * scaled).sum(axis=1)
            of_target = scaled[rows, case.targets]
            losses = -np.log(np.maximum(right[rows, case.targets], 1e-300))
            value += case.weight * losses.mean()
            # d/dw of log sum exp(s z) - s z_y, where ds/dw = s f
            gradient += case.weight * ((mean - of_target) @ known) / len(rows)
        return value, gradient

    return np.asarray(minimise(objective, np.zeros(4), _ITERATIONS), dtype=np.float64)


def fit_scope(found: Sequence[Case]) -> Floats:
    """Weights [5] of the in-scope probability, at `OUT_OF_SCOPE_SHARE`."""
    features, targets, weights = [], [], []
    for case in found:
        for cosines, inside in ((case.cosines, 1.0), (case.outside, 0.0)):
            share = 1 - OUT_OF_SCOPE_SHARE if inside else OUT_OF_SCOPE_SHARE
            features.append(scope_features(cosines, case.examples))
            targets.append(np.full(len(cosines), inside))
            weights.append(np.full(len(cosines), case.weight * share / len(cosines)))
    return logistic(np.concatenate(features), np.concatenate(targets), np.concatenate(weights))


def logistic(features: Floats, targets: Floats, weights: Floats) -> Floats:
    """Weights [F] of a logistic regression of features [N, F]."""

    def objective(point: Vector) -> tuple[float, Vector]:
        logits = features @ point
        losses = np.logaddexp(0, logits) - targets * logits
        chances = 0.5 + 0.5 * np.tanh(0.5 * logits)
        return float(weights @ losses), features.T @ (weights * (chances - targets))

    start = np.zeros(features.shape[1])
    return np.asarray(minimise(objective, start, _ITERATIONS), dtype=np.float64)


def fit_threshold(found: Sequence[tuple[Case, Calibration]]) -> float:
    """The in-scope probability that `KEPT_IN_SCOPE` of the texts in scope reach."""
    scores = np.concatenate([made.scope(case.cosines, case.examples) for case, made in found])
    sizes = [np.full(len(case.targets), case.weight / len(case.targets)) for case, _ in found]
    order = np.argsort(scores)
    below = np.cumsum(np.concatenate(sizes)[order])
    first = int(np.searchsorted(below, (1 - KEPT_IN_SCOPE) * below[-1]))
    return float(scores[order][first])


def fit_predicate(data: Data) -> tuple[float, float]:
    """Slope and midpoint: texts with their own label's name against another label's, even odds."""
    generator = np.random.default_rng(0)
    names = np.stack([vectors[0] for vectors in data.labels])
    shift = generator.integers(1, len(names), len(data.targets))
    true = np.einsum("nd,nd->n", data.vectors, names[data.targets])
    false = np.einsum("nd,nd->n", data.vectors, names[(data.targets + shift) % len(names)])
    values = np.concatenate([true, false]).astype(np.float64)
    features = np.column_stack([np.ones(len(values)), values])
    targets = np.repeat([1.0, 0.0], len(true))
    bias, slope = logistic(features, targets, np.full(len(values), 1 / len(values)))
    return float(slope), float(-bias / slope)


def calibrate(found: Sequence[Case]) -> Calibration:
    """Both calibrations of a kind of head, rounded as they are printed."""
    scale, scope = ([round(float(v), 3) for v in fit(found)] for fit in (fit_scale, fit_scope))
    return Calibration((scale[0], scale[1], scale[2], scale[3]), _five(scope))


def _five(values: Sequence[float]) -> tuple[float, float, float, float, float]:
    first, second, third, fourth, fifth = values
    return first, second, third, fourth, fifth


def report(name: str, found: Sequence[Case], made: Calibration, threshold: float) -> None:
    """Print how the constants do on each size of label set, out of the fit's own draws."""
    print("\nkind labels examples accuracy ece auroc answered-in answered-out")
    for size, examples in sorted({(case.size, case.examples) for case in found}):
        group = [case for case in found if (case.size, case.examples) == (size, examples)]
        rights = [made.probabilities(c.logits, c.cosines, c.examples) for c in group]
        right, targets = np.concatenate(rights), np.concatenate([c.targets for c in group])
        inside = np.concatenate([made.scope(c.cosines, c.examples) for c in group])
        outside = np.concatenate([made.scope(c.outside, c.examples) for c in group])
        figures = [
            accuracy(right, targets),
            calibration_error(right, targets),
            auroc(inside, outside),
            float(np.mean(inside >= threshold)),
            float(np.mean(outside >= threshold)),
        ]
        print(name, size, examples, *(f"{figure:.3f}" for figure in figures))


def main() -> None:
    """Print the constants, then how they do on other label sets of the same texts."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.fit_decisions")
    parser.add_argument("--data", type=Path, default=Settings().bench.data)
    data = load_data(parser.parse_args().data)
    kinds = {"NAMES": (0,), "FEW_SHOT": SHOTS}
    found = {name: list(cases(data, shots, seed=0)) for name, shots in kinds.items()}
    made = {name: calibrate(group) for name, group in found.items()}
    threshold = round(fit_threshold([(c, made[name]) for name in found for c in found[name]]), 3)
    slope, midpoint = fit_predicate(data)
    for name, calibration in made.items():
        print(f"{name} = {calibration}")
    print(f"IN_SCOPE_THRESHOLD = {threshold}")
    print(f"PREDICATE_SLOPE = {slope:.2f}\nPREDICATE_MIDPOINT = {midpoint:.3f}")
    for name, shots in kinds.items():
        report(name, list(cases(data, shots, seed=1)), made[name], threshold)


if __name__ == "__main__":
    main()
