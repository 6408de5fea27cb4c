"""What a model that is served says of texts: the labels that a head is taught."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ironcliw.client import Classification
from ironcliw.errors import IroncliwError
from train.heads.kept_answers import KeptAnswers

_AT_ONCE = 8
_MOST_FAILURES = 8
"""After so many nothing more is asked: the service is gone, or the request is wrong."""

logger = logging.getLogger(__name__)


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
    kept: KeptAnswers | None = None,
) -> npt.NDArray[np.float64]:
    """Probabilities of the labels, float64 [N, L]; a text that none fits has a row of zeros.

    A request that fails does not stop the others, unless many do; what was answered is kept.

    Args:
        client: Of a running service.
        model: That answers.
        texts: N of them.
        labels: L names.
        progress: Called with the number of texts that were answered.
        kept: Answers of before, which are not asked for again; None: none are kept.

    Raises:
        IroncliwError: as the client, the first of them.
    """
    found: dict[str, list[float]] = {}
    for text in texts:
        before = None if kept is None else kept.get(text)
        if before is not None:
            found[text] = before

    def one(text: str) -> list[float]:
        answer = client.classify(text, labels, model=model)
        return [answer.scores.get(label, 0.0) for label in labels]

    wanted = list(dict.fromkeys(texts))
    failures: list[IroncliwError] = []
    for text, row in _answered(one, [text for text in wanted if text not in found], failures):
        found[text] = row
        if kept is not None:
            kept.add(text, row)
        progress(len(found))
    if failures:
        where = "" if kept is None else f"; the others are in {kept.file}: the same command goes on"
        missing = len(wanted) - len(found)
        logger.warning("%d of %d texts are not answered%s", missing, len(wanted), where)
        raise failures[0]
    return _normalised(np.array([found[text] for text in texts]).reshape(len(texts), len(labels)))


def _answered(
    one: Callable[[str], list[float]], texts: Sequence[str], failures: list[IroncliwError]
) -> Iterator[tuple[str, list[float]]]:
    """Texts and their answers as they come; requests that failed are added to `failures`."""
    stopped = threading.Event()

    def unless_stopped(text: str) -> list[float] | None:
        if stopped.is_set():
            return None
        try:
            return one(text)
        except IroncliwError as error:
            failures.append(error)
            # here and not where answers are taken, which may be hundreds of requests later
            if len(failures) >= _MOST_FAILURES:
                stopped.set()
            return None

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        asked = {threads.submit(unless_stopped, text): text for text in texts}
        try:
            for done in as_completed(asked):
                if (row := done.result()) is not None:
                    yield asked[done], row
        finally:  # also for Ctrl-C: what is not sent yet is not asked
            stopped.set()


def _normalised(whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each row made to sum to 1, but for rows of zeros."""
    sums = whole.sum(1, keepdims=True)
    found: npt.NDArray[np.float64] = np.zeros_like(whole, np.float64)
    np.divide(whole, sums, out=found, where=sums > 0)
    return found
