"""Theme `decisions`: how well they are answered, and how fast, by embeddings and by entailment.

Accuracy is that of the bundled MiniLM on CLINC150. The entailment model has BART-large's shape, all
12 + 12 layers, and random weights, since it is about speed, and about how far rounding moves the
probabilities; each contestant has a process of its own.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import generation_work
from benchmarks.child import Child
from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples, ThemeResult, interleave
from benchmarks.intent_accuracy import load_split, measure
from benchmarks.peers import ours
from benchmarks.peers.zero_shot_work import make_model, pack
from benchmarks.texts import short_texts
from benchmarks.themes.decisions_http import rate_rows

logger = logging.getLogger(__name__)

THEME = "decisions"
LABELS = 20
OURS, OURS_FP32 = "ironcliw", "ironcliw fp32"
FP32, BF16 = "transformers pipeline", "transformers pipeline bf16, batched"
BUILDERS = {
    OURS: "benchmarks.peers.zero_shot_work:build",
    OURS_FP32: "benchmarks.peers.zero_shot_work:build_fp32",
    FP32: "benchmarks.peers.zero_shot_pipeline:build_fp32",
    BF16: "benchmarks.peers.zero_shot_pipeline:build_bf16",
}
NLI_GOAL = Goal(2.5, relative=True)
MOVED_GOAL = Goal(0.01, at_most=True)
# figure of intent_accuracy.measure -> factor and unit of the row, goal
ACCURACY: Mapping[str, tuple[float, str, Goal | None]] = {
    "label names accuracy": (100, "%", Goal(70.0)),
    "5 examples accuracy": (100, "%", Goal(88.5)),
    "10 examples accuracy": (100, "%", Goal(92.5)),
    "label names ece": (1, "error", Goal(0.03, at_most=True)),
    "5 examples ece": (1, "error", Goal(0.03, at_most=True)),
    "10 examples ece": (1, "error", Goal(0.03, at_most=True)),
    "label names auroc": (1, "auroc", Goal(0.94)),
    "5 examples auroc": (1, "auroc", Goal(0.96)),
    "10 examples auroc": (1, "auroc", None),
}
_TEXTS, _QUICK_TEXTS = 3, 1
_LAYERS = 12  # BART-large: so many in the encoder, so many in the decoder
_START_SECONDS = 300.0


def run(options: Options) -> ThemeResult:
    """Accuracy, then entailment, then HTTP.

    Raises:
        BenchmarkError: the data is missing, a contestant died, or our server does not start.
    """
    rounds = options.rounds or (1 if options.quick else 5)
    labels = sorted(set(load_split(options.data, "train").labels))[:LABELS]
    logger.info("accuracy on CLINC150")
    embed = ours.build(options.model, options.threads)
    rows = accuracy_rows(measure(embed, options.data))
    rates, scores = _entailment(options, labels, rounds)
    rows += entailment_rows(rates) + moved_rows(scores)
    rows += rate_rows(options, labels, rounds)
    return ThemeResult(rows, _remarks(options, rounds))


def accuracy_rows(figures: Mapping[str, float]) -> list[Row]:
    """Rows of what `intent_accuracy.measure` found."""
    return [
        Row(THEME, f"CLINC150 {name}", unit, Samples.of([factor * figures[name]]), goal=goal)
        for name, (factor, unit, goal) in ACCURACY.items()
    ]


def entailment_rows(rates: Mapping[str, Figure]) -> list[Row]:
    """Texts a second with 20 labels: ours against the pipeline, each in both precisions."""
    name = f"entailment, one text x {LABELS} labels, against the"
    pairs = ((OURS, FP32, NLI_GOAL), (OURS, BF16, None), (OURS_FP32, FP32, None))
    return [
        Row(
            THEME,
            f"{name} {peer}" + (" (ours in fp32)" if who == OURS_FP32 else ""),
            "texts/s",
            rates[who],
            {peer: rates[peer]},
            goal,
        )
        for who, peer, goal in pairs
    ]


def moved_rows(scores: Mapping[str, Any]) -> list[Row]:
    """How far 16 bits move a label's probability from the pipeline's in fp32, at most."""
    if not {OURS, BF16, FP32} <= scores.keys():
        return []
    ours, peer = (Samples.of([_farthest(scores[who], scores[FP32])]) for who in (OURS, BF16))
    name = f"entailment, {LABELS} labels, a probability's largest distance from fp32"
    return [Row(THEME, name, "probability", ours, {BF16: peer}, MOVED_GOAL)]


def _farthest(scores: Any, exact: Any) -> float:
    return float(np.abs(np.asarray(scores) - np.asarray(exact)).max())


def _entailment(
    options: Options, labels: list[str], rounds: int
) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Texts a second of each contestant, and its probabilities [texts, labels]."""
    texts = short_texts(options.data, _QUICK_TEXTS if options.quick else _TEXTS, options.seed)
    asked = [pack(text, [label.replace("_", " ") for label in labels]) for text in texts]
    tokenizer = generation_work.folder_of(generation_work.gguf_file()) / "tokenizer.json"
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = work / "model"
        logger.info("writing a random model of BART-large's shape")
        make_model(folder, tokenizer, _LAYERS)
        children: dict[str, Child] = {}
        missing: dict[str, NotRun] = {}
        for index, (name, builder) in enumerate(BUILDERS.items()):
            environment = options.child_environment()
            child = Child(builder, folder, options.threads, environment, work / f"{index}.log")
            children[name] = stack.enter_context(child)
            reason = child.wait_ready(_START_SECONDS)
            if reason is not None:
                missing[name] = reason
                del children[name]
        logger.info("entailment, %d rounds", rounds)
        timers, scores = {}, {}
        for name, child in children.items():
            child.call(op="texts", name="nli", texts=asked)
            file = work / "scores.npy"
            child.call(op="vectors", name="nli", path=str(file))  # warm-up, not counted
            scores[name] = np.load(file)
            timers[name] = partial(_rate, child, len(asked))
        taken = interleave(timers, rounds)
    rates: dict[str, Figure] = {name: Samples.of(values) for name, values in taken.items()}
    return {**rates, **missing}, scores


def _rate(child: Child, texts: int) -> float:
    return texts / float(child.call(op="time", name="nli")["seconds"])


def _remarks(options: Options, rounds: int) -> list[str]:
    accuracy = (
        "Accuracy: CLINC150 validation, 150 labels; example figures are means of five draws "
        "(seeds 0 to 4); ECE over 15 bins of the likeliest label; AUROC of in scope against out "
        "of scope. Every constant was fitted on the train split."
    )
    texts = _QUICK_TEXTS if options.quick else _TEXTS
    entailment = (
        f"Entailment: BART-large's shape, {_LAYERS} + {_LAYERS} layers, random weights; texts "
        f"one after the other: {texts}, {rounds} rounds in alternation, {options.threads} threads."
    )
    http = (
        f"HTTP: wrk on the same cores, {LABELS} labels, every text new to the server, both routes "
        "of one server in alternation."
    )
    return [accuracy, entailment, http]
