"""What a model that is served says of texts: the labels that a head is taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ironcliw.client import Classification

_AT_ONCE = 8


class Classifier(Protocol):
    """What of `ironcliw.client.Client` is needed here."""

    def classify(self, text: str, labels: Sequence[str], *, model: str) -> Classification:
        """The probability of each label."""
        ...


def ask(
    client: Classifier,
    model: str,
    texts: Sequence[str],
    labels: Sequence[str],
    progress: Callable[[int], object] = lambda done: None,
) -> npt.NDArray[np.float64]:
    """Probabilities of the labels, float64 [N, L]; a text that none fits has a row of zeros.

    Args:
        client: Of a running service.
        model: That answers.
        texts: N of them.
        labels: L names.
        progress: Called with the number of texts that were answered.

    Raises:
        IroncliwError: as the client.
    """

    def one(text: str) -> list[float]:
        found = client.classify(text, labels, model=model)
        return [found.scores.get(label, 0.0) for label in labels]

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        rows = []
        for row in threads.map(one, texts):
            rows.append(row)
            progress(len(rows))
    whole = np.array(rows, np.float64).reshape(len(texts), len(labels))
    sums = whole.sum(1, keepdims=True)
    found: npt.NDArray[np.float64] = np.zeros_like(whole)
    np.divide(whole, sums, out=found, where=sums > 0)
    return found
