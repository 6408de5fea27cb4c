"""What all workers of a run are given."""

from __future__ import annotations

from dataclasses import dataclass

from ironcliw.settings import Settings
from train.config import TrainingConfig
from train.data.tokenized import TokenizedData
from train.tokenizer import TrainingTokenizer


@dataclass(frozen=True, slots=True)
class Job:
    """A run, ready to be computed.

    Attributes:
        config: Of the run.
        settings: Of the head, for catalogue and folders.
        uri: Of the run's folder.
        train: Tokenised rows.
        held_out: Rows to measure on; None: there are none.
        threads: Of each worker.
        tokenizer: Of the model; None: nothing is measured that compares texts.
    """

    config: TrainingConfig
    settings: Settings
    uri: str
    train: TokenizedData
    held_out: TokenizedData | None
    threads: int
    tokenizer: TrainingTokenizer | None = None
