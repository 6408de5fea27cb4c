"""A head from files of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError, SettingsError
from ironcliw.settings import Settings
from train.heads.head import FittedHead, Labelled, fit_head
from train.heads.texts import HeadText, read_texts, without
from train.heads.vectors import TextVectors

Teacher = Callable[[Sequence[str], Sequence[str]], npt.NDArray[np.float64]]
"""Texts and labels to probabilities, float64 [N, L]; zeros where no label fits."""


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """What a head is made of.

    Attributes:
        model: Whose vectors it reads: an id of the catalogue, or a folder.
        data: Files of `text` and `label`, or of `text` where there is a teacher.
        measured: Files of `text` and `label` to measure on; none: on the texts that calibrate.
        labels: To choose from; none: those of the data.
    """

    model: str
    data: tuple[str, ...]
    measured: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def make_head(
    plan: HeadPlan,
    embed: Callable[[Sequence[str]], npt.NDArray[np.float32]],
    teacher: Teacher | None = None,
) -> FittedHead:
    """Read, embed, ask the teacher if there is one, fit and measure.

    Args:
        plan: Of the head.
        embed: Texts to vectors of length 1, float32 [N, D].
        teacher: Says the labels of texts that have none.

    Raises:
        DataError: the data are broken or too few, or have a label that is not among `labels`.
        SettingsError: there is a teacher and no labels to choose from.
    """
    if teacher is not None and len(plan.labels) < 2:
        raise SettingsError("a teacher chooses among labels; name two or more with --labels")
    rows = read_texts(plan.data, labelled=teacher is None)
    labels = plan.labels or tuple(sorted({row.label for row in rows if row.label is not None}))
    if len(labels) < 2:
        raise DataError(
            f"the data have the labels {list(labels)}; two are the fewest to tell apart"
        )
    if teacher is None:
        targets = one_hot(rows, labels)
    else:
        targets = teacher([row.text for row in rows], labels)
        answered = targets.sum(1) > 0
        rows = [row for row, is_answered in zip(rows, answered, strict=True) if is_answered]
        targets = targets[answered]
    given = _labelled(rows, targets, embed)
    measured = None
    if plan.measured:
        others = without(read_texts(plan.measured, labelled=True), rows)
        measured = _labelled(others, one_hot(others, labels), embed)
    names = embed([label.replace("_", " ") for label in labels])
    return fit_head(labels, given, names, measured)


def one_hot(rows: Sequence[HeadText], labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """A one at each text's label, float64 [N, L].

    Raises:
        DataError: a text has another label.
    """
    places = {label: at for at, label in enumerate(labels)}
    found = np.zeros((len(rows), len(labels)))
    for at, row in enumerate(rows):
        if row.label not in places:
            raise DataError(
                f"{row.source} has the label {row.label!r}, which is not among the {len(labels)} "
                "to choose from; add it, or take the row out"
            )
        found[at, places[row.label]] = 1.0
    return found


def text_vectors(model: str, settings: Settings) -> TextVectors:
    """See `train.heads.vectors.TextVectors`."""
    return TextVectors(model, settings)


def _labelled(
    rows: Sequence[HeadText],
    targets: npt.NDArray[np.float64],
    embed: Callable[[Sequence[str]], npt.NDArray[np.float32]],
) -> Labelled:
    if not rows:
        raise DataError("no text is left to learn from: the teacher found that no label fits any")
    return Labelled(embed([row.text for row in rows]), targets, [row.key for row in rows])
