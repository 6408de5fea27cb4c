"""Measure every candidate on every suite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from ironcliw.errors import AdapterError, SettingsError
from ironcliw.file_digests import weights_digest
from ironcliw.settings import Settings
from train.comparison.candidates import Candidates, load_candidates
from train.comparison.config import ComparisonConfig, Suite
from train.comparison.scores import row_scores
from train.comparison.templates import check_templates
from train.comparison.win_rate import WinRate, win_rate
from train.config import TrainingConfig
from train.data.read import read_data
from train.data.tokenized import TokenizedData
from train.evaluation.checks import check_evaluation
from train.evaluation.evaluator import Evaluator
from train.export.source import Source, open_source
from train.model.load import model_folder
from train.tokenizer import TrainingTokenizer

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """One suite.

    Attributes:
        name: Of it.
        kind: `answers` or `preferences`.
        rows: That were measured on.
        digest: Of the tokenised data.
        measures: Of each candidate, by name.
        win_rates: Of each candidate (first) against each other one.
    """

    name: str
    kind: str
    rows: int
    digest: str
    measures: Mapping[str, Mapping[str, float]]
    win_rates: Mapping[tuple[str, str], WinRate]


def compare(
    config: ComparisonConfig, settings: Settings, report: Report = lambda text: None
) -> list[SuiteResult]:
    """Everything that the configuration asks for.

    Args:
        config: What is compared, and on what.
        settings: Of the head.
        report: Told in words what is done next.

    Raises:
        SettingsError: a suite asks for what its data cannot give, or a source is none.
        AdapterError: an adapter was trained on another base.
        DataError: data cannot be used.
        ModelLoadError: files are absent or damaged.
        TrainingError: the base has no room.
    """
    # all data are read before a model is loaded: what is wrong with them is told at once
    asked = [_asked(suite, config, settings) for suite in config.suites]
    with ExitStack() as stack:
        adapters = {
            name: _adapter(
                stack.enter_context(open_source(where, settings, config.model_name)),
                config.model_name,
                settings,
            )
            for name, where in config.adapters.items()
        }
        for each in asked:
            check_templates(each.suite, each.data, adapters, config.model_name, settings)
        report(f"loading {config.model_name} with {len(adapters)} adapters")
        candidates = load_candidates(config, adapters, settings)
        return [_measure(each, config, candidates, report) for each in asked]


def _adapter(source: Source, base: str, settings: Settings) -> Source:
    if source.adapter is None:
        raise SettingsError(
            f"{source.name} is a model, not an adapter; adapters of one base are compared: give "
            "it as model_name of a comparison of its own"
        )
    index = settings.state_dir / "models" / "index"
    folder = model_folder(base, settings)
    if folder != source.model and weights_digest(folder, index) != weights_digest(
        source.model, index
    ):
        raise AdapterError(
            f"{source.name} is an adapter of {source.base}, and {base} has other weights; compare "
            "it with its own base",
            code="adapter_of_other_base",
        )
    return source


@dataclass(frozen=True, slots=True)
class _Asked:
    """A suite and its rows, as its own chat template makes them."""

    suite: Suite
    data: TokenizedData
    tokenizer: TrainingTokenizer


def _asked(suite: Suite, config: ComparisonConfig, settings: Settings) -> _Asked:
    tokenizer = TrainingTokenizer.load(
        config.model_name, settings, template=suite.data.chat_template
    )
    return _Asked(suite, _read(suite, config, tokenizer), tokenizer)


def _read(suite: Suite, config: ComparisonConfig, tokenizer: TrainingTokenizer) -> TokenizedData:
    data = read_data(suite.data, tokenizer).train
    if not len(data):
        raise SettingsError(f"suite {suite.name!r} has no rows; see what was left out, and why")
    if data.are_pairs:
        if suite.evaluation.metrics:
            raise SettingsError(
                f"suite {suite.name!r} has preferences and the metrics "
                f"{list(suite.evaluation.metrics)}, which are of answers to be imitated; leave "
                "metrics out"
            )
    else:
        check_evaluation(suite.evaluation, data, data, tokenizer)
    longest = int(data.lengths.max())
    if longest > config.micro_batch_tokens:
        raise SettingsError(
            f"suite {suite.name!r} has a row of {longest} tokens, more than micro_batch_tokens, "
            f"{config.micro_batch_tokens}; raise it, or lower data.max_length"
        )
    return data


def _measure(
    asked: _Asked, config: ComparisonConfig, candidates: Candidates, report: Report
) -> SuiteResult:
    suite, data = asked.suite, asked.data
    rows = min(len(data), suite.evaluation.max_rows)
    measures: dict[str, dict[str, float]] = {}
    scores: dict[str, list[float]] = {}
    for name in config.candidates:
        report(f"suite {suite.name}: {name}, {rows} rows")
        with candidates.use(name):
            found = row_scores(candidates.computer, data, rows, config.micro_batch_tokens)
            scores[name] = found.tolist()
            if data.are_pairs:
                measures[name] = _of_pairs(scores[name])
            else:
                measures[name] = _of_answers(asked, config, candidates)
    rates = {
        (ours, theirs): win_rate(scores[ours], scores[theirs])
        for ours in config.candidates
        for theirs in config.candidates
        if ours != theirs
    }
    kind = "preferences" if data.are_pairs else "answers"
    return SuiteResult(suite.name, kind, rows, data.digest, measures, rates)


def _of_pairs(margins: list[float]) -> dict[str, float]:
    return {
        "preference_accuracy": sum(margin > 0 for margin in margins) / len(margins),
        "preference_margin": math.fsum(margins) / len(margins),
    }


def _of_answers(
    asked: _Asked, config: ComparisonConfig, candidates: Candidates
) -> dict[str, float]:
    run = TrainingConfig(
        model_name=config.model_name,
        evaluation=asked.suite.evaluation,
        micro_batch_tokens=config.micro_batch_tokens,
    )
    data, computer = asked.data, candidates.computer
    # the same rows are held out and known: all of their answers are labels
    evaluator = Evaluator(computer, candidates.model, data, data, run, 1, asked.tokenizer)
    found = evaluator.measure(0, 1)
    assert found is not None, "what is asked for before the first step is always due"
    return {name: float(value) for name, value in found.items() if name != "eval_rows"}
