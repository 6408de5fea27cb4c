"""What is refused before a run begins: measures that its held-out rows cannot give."""

from __future__ import annotations

from ironcliw.errors import SettingsError
from train.data.tokenized import TokenizedData
from train.evaluation.answers import essence
from train.evaluation.labels import find_labels
from train.evaluation.options import EvaluationOptions
from train.evaluation.rows import question, without_end
from train.tokenizer import TrainingTokenizer


def check_evaluation(
    options: EvaluationOptions,
    held_out: TokenizedData | None,
    train: TokenizedData,
    tokenizer: TrainingTokenizer,
) -> None:
    """See that everything that is asked for can be measured.

    Args:
        options: What is asked for.
        held_out: Rows to measure on; None: there are none.
        train: Rows that are trained on.
        tokenizer: Of the model.

    Raises:
        SettingsError: it cannot; the message names the row, where one is the reason.
    """
    if not options.metrics:
        return
    if held_out is None or not len(held_out):
        raise SettingsError(
            f"evaluation.metrics is {list(options.metrics)}, and no row is held out; set data.eval "
            "or data.eval_share"
        )
    if options.generates:
        _check_answers(options, held_out, tokenizer)
    if "decision_accuracy" in options.metrics:
        find_labels(options, tokenizer, held_out, train)


def _check_answers(
    options: EvaluationOptions, data: TokenizedData, tokenizer: TrainingTokenizer
) -> None:
    """Every expected answer must have what `match` compares."""
    find = essence(options)
    for index in range(min(len(data), options.max_rows)):
        text = tokenizer.text(without_end(question(data, index).answer, tokenizer))
        if find(text) is None:
            what = "number" if options.match == "last_number" else f"match of {options.pattern!r}"
            raise SettingsError(
                f"evaluation.match is {options.match!r}, and the answer of {data.source(index)} "
                f"has no {what}: {text[-60:]!r}; choose another match, or mend the row"
            )
