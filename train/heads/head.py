"""From texts and what their labels are to a calibrated head and its measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError
from ironcliw.head_record import BIAS, WEIGHT, WEIGHTS_FILE, HeadRecord
from train.data.split import is_held_out
from train.heads.fit import (
    PENALTIES,
    Linear,
    calibration_error,
    cross_entropy,
    fit_linear,
    fit_temperature,
    log_softmax,
)

Matrix = npt.NDArray[np.float32]
CALIBRATION_SHARE = 0.15
"""Of the texts: not fitted to, so that they tell how sure the head may be."""
NAMES_ACCURACY = "accuracy_of_names"
_FEWEST = 20


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts as a head sees them.

    Attributes:
        vectors: float32 [N, D], of length 1.
        targets: float64 [N, L], probabilities of the labels: a one and zeros, or a teacher's.
        keys: N of them, of `HeadText.key`.
    """

    vectors: Matrix
    targets: npt.NDArray[np.float64]
    keys: Sequence[bytes]

    def part(self, chosen: npt.NDArray[np.bool_]) -> Labelled:
        """Some of the texts."""
        keys = [key for key, is_chosen in zip(self.keys, chosen, strict=True) if is_chosen]
        return Labelled(self.vectors[chosen], self.targets[chosen], keys)


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A head and what was measured of it.

    Attributes:
        labels: L of them.
        linear: Its weights.
        temperature: Of its logits.
        measures: `accuracy`, `ece`, `ece_uncalibrated`, `cross_entropy`, `penalty`, `rows`.
        names_accuracy: Of the nearest label's name alone, on the same texts.
    """

    labels: tuple[str, ...]
    linear: Linear
    temperature: float
    measures: dict[str, float]
    names_accuracy: float

    def save(
        self, folder: Path, base: str | None = None, base_digest: str | None = None
    ) -> HeadRecord:
        """Write both files into a folder that exists.

        Args:
            folder: Where to.
            base: The model whose vectors it reads.
            base_digest: `weights_digest` of that model.
        """
        from safetensors.numpy import save_file

        dimensions = self.linear.weight.shape[1]
        measures = {**self.measures, NAMES_ACCURACY: self.names_accuracy}
        record = HeadRecord(self.labels, dimensions, self.temperature, measures, base, base_digest)
        record.write(folder)
        tensors = {WEIGHT: self.linear.weight, BIAS: self.linear.bias}
        save_file(tensors, folder / WEIGHTS_FILE)
        return record


def fit_head(
    labels: Sequence[str], given: Labelled, names: Matrix, measured: Labelled | None = None
) -> FittedHead:
    """Fit, calibrate and measure.

    Which texts calibrate is decided by their content: a text stays on its side when others are
    added.

    Args:
        labels: L names.
        given: Texts to fit and to calibrate.
        names: float32 [L, D], vectors of the labels' names, of length 1.
        measured: Texts to measure on; None: those that calibrate, on which the error of
            calibration is too small.

    Raises:
        DataError: too few texts, or too few of them to calibrate.
    """
    side = np.array([is_held_out(key, CALIBRATION_SHARE) for key in given.keys], np.bool_)
    if side.sum() < _FEWEST or (~side).sum() < len(labels):
        raise DataError(
            f"{len(given.keys)} texts of {len(labels)} labels: {int(side.sum())} of them would "
            f"calibrate the head, and {_FEWEST} are the fewest that tell how sure it is; give more"
        )
    fitted, held_out = given.part(~side), given.part(side)
    found: list[tuple[float, float, Linear]] = []
    for penalty in PENALTIES:
        linear = fit_linear(
            fitted.vectors, fitted.targets, penalty, found[-1][2] if found else None
        )
        loss = cross_entropy(linear.logits(held_out.vectors), held_out.targets)
        found.append((loss, penalty, linear))
    _, penalty, linear = min(found, key=lambda each: each[0])
    temperature = fit_temperature(linear.logits(held_out.vectors), held_out.targets)
    on = measured or held_out
    logits, answers = linear.logits(on.vectors), on.targets.argmax(1)
    calibrated = np.exp(log_softmax(logits / temperature))
    measures = {
        "accuracy": float((logits.argmax(1) == answers).mean()),
        "ece": calibration_error(calibrated, answers),
        "ece_uncalibrated": calibration_error(np.exp(log_softmax(logits)), answers),
        "cross_entropy": cross_entropy(logits, on.targets, temperature),
        "penalty": penalty,
        "rows": float(len(answers)),
    }
    nearest = (on.vectors @ names.T).argmax(1)
    return FittedHead(
        tuple(labels), linear, temperature, measures, float((nearest == answers).mean())
    )
