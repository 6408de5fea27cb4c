"""Theme `engines`: embeddings in process, tokenising included, against the usual ways.

Each contestant has a process of its own with the same thread count and is measured in
alternation on the same texts. The share of the GEMM ceiling says how much room is left.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.child import Child
from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples, ThemeResult, interleave
from benchmarks.texts import mixed_texts, short_texts

logger = logging.getLogger(__name__)

THEME = "engines"
OURS = "ironcliw"
ENGINE, INT8 = "ironcliw, tokens given", "ironcliw int8"
FP32, BF16 = "sentence-transformers fp32", "sentence-transformers bf16"
LOOP = "original document's loop"
CEILINGS = {"GEMM ceiling fp32": "build_fp32", "GEMM ceiling bf16": "build_bf16"}
BUILDERS = {
    OURS: "benchmarks.peers.ours:build",
    ENGINE: "benchmarks.peers.ours:build_engine",
    INT8: "benchmarks.peers.ours:build_int8",
    FP32: "benchmarks.peers.sentence_transformers_peer:build_fp32",
    BF16: "benchmarks.peers.sentence_transformers_peer:build_bf16",
    LOOP: "benchmarks.peers.original_loop:build",
    **{name: f"benchmarks.peers.gemm_ceiling:{build}" for name, build in CEILINGS.items()},
}
COUNTS = {"short": (1024, 256), "mixed": (512, 128)}
MIN_COSINE = Goal(0.9995)
MIN_COSINE_INT8 = Goal(0.99)
CEILING_SHARE = Goal(0.65, relative=True)
_START_SECONDS = 240.0


def run(options: Options) -> ThemeResult:
    """Measure every contestant on both kinds of texts.

    Raises:
        BenchmarkError: the data is missing, or a contestant died.
    """
    texts = choose_texts(options)
    rounds = options.rounds or (3 if options.quick else 7)
    rows: list[Row] = []
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logger.info("loading %d contestants", len(BUILDERS))
        children, missing = _start(stack, options, work)
        for name, chosen in texts.items():
            logger.info("%s texts, %d rounds", name, rounds)
            for child in children.values():
                child.call(op="texts", name=name, texts=chosen)
                child.call(op="time", name=name)  # warm-up, not counted
            cosines = _cosines(children, name, work)
            timers = {who: partial(_seconds, child, name) for who, child in children.items()}
            times = interleave(timers, rounds)
            rates = {who: [len(chosen) / value for value in taken] for who, taken in times.items()}
            figures: dict[str, Figure] = {who: Samples.of(rate) for who, rate in rates.items()}
            tokens = _tokens(options.model, chosen) / len(chosen)
            rows += build_rows(name, {**figures, **missing}, cosines, tokens, options.cap)
    return ThemeResult(rows, _remarks(options, texts, rounds))


def choose_texts(options: Options) -> dict[str, list[str]]:
    """The texts of a run by kind; fewer with `quick`."""
    index = 1 if options.quick else 0
    return {
        "short": short_texts(options.data, COUNTS["short"][index], options.seed),
        "mixed": mixed_texts(options.data, COUNTS["mixed"][index], options.seed),
    }


def build_rows(
    kind: str,
    rates: Mapping[str, Figure],
    cosines: Mapping[str, float],
    tokens_per_text: float,
    cap: str | None,
) -> list[Row]:
    """Rows of one kind of texts.

    Args:
        kind: `short` or `mixed`.
        rates: Texts a second of each contestant.
        cosines: Smallest cosine to the fp32 reference over all texts.
        tokens_per_text: Real tokens of a text on average.
        cap: The instruction-set cap, which lowers the goals.
    """
    ours = rates[OURS]
    goals = {
        FP32: Goal(2.0 if cap else 4.6, relative=True),
        BF16: None if cap else Goal(1.6, relative=True),
        LOOP: None,
    }
    rows = [
        Row(THEME, f"{kind} texts against {peer}", "texts/s", ours, {peer: rates[peer]}, goal)
        for peer, goal in goals.items()
    ]
    scaled = {who: _scale(figure, tokens_per_text) for who, figure in rates.items()}
    peers = {who: scaled[who] for who in (FP32, BF16, LOOP)}
    rows.append(Row(THEME, f"{kind} real tokens", "tokens/s", scaled[OURS], peers))
    rows += _ceiling_rows(kind, scaled, cap)
    int8 = {OURS: ours, FP32: rates[FP32]}
    rows.append(Row(THEME, f"{kind} texts in int8", "texts/s", rates[INT8], int8))
    rows.append(_cosine_row(kind, cosines))
    rows.append(_int8_cosine_row(kind, cosines))
    return rows


def _ceiling_rows(kind: str, scaled: Mapping[str, Figure], cap: str | None) -> list[Row]:
    """End to end and for the engine alone, which is what the goal is about."""
    best = max(CEILINGS, key=lambda who: _median(scaled[who]))
    goals = {OURS: None, ENGINE: None if cap else CEILING_SHARE}
    return [
        Row(
            THEME,
            f"{kind} tokens against the {best}" + (" (tokens given)" if who == ENGINE else ""),
            "tokens/s",
            scaled[who],
            {best: scaled[best]},
            goal,
        )
        for who, goal in goals.items()
    ]


def _cosine_row(kind: str, cosines: Mapping[str, float]) -> Row:
    absent = NotRun("no fp32 reference to compare with")
    ours = Samples.of([cosines[OURS]]) if OURS in cosines else absent
    peers: dict[str, Figure] = {
        who: Samples.of([value]) for who, value in cosines.items() if who not in {OURS, INT8}
    }
    return Row(THEME, f"{kind} min cosine to fp32", "cosine", ours, peers, MIN_COSINE)


def _int8_cosine_row(kind: str, cosines: Mapping[str, float]) -> Row:
    absent = NotRun("no fp32 reference to compare with")
    ours = Samples.of([cosines[INT8]]) if INT8 in cosines else absent
    name = f"{kind} min cosine of int8 to fp32"
    return Row(THEME, name, "cosine", ours, goal=MIN_COSINE_INT8)


def _start(
    stack: ExitStack, options: Options, work: Path
) -> tuple[dict[str, Child], dict[str, NotRun]]:
    children, missing = {}, {}
    for index, (name, builder) in enumerate(BUILDERS.items()):
        log = work / f"{index}.log"
        environment = options.child_environment()
        child = Child(builder, options.model, options.threads, environment, log)
        children[name] = stack.enter_context(child)
    for name, child in list(children.items()):
        reason = child.wait_ready(_START_SECONDS)
        if reason is not None:
            missing[name] = reason
            del children[name]
    return children, missing


def _seconds(child: Child, kind: str) -> float:
    return float(child.call(op="time", name=kind)["seconds"])


def _cosines(children: Mapping[str, Child], kind: str, work: Path) -> dict[str, float]:
    vectors = {}
    for index, who in enumerate((FP32, OURS, BF16, INT8)):
        if who in children:
            path = work / f"{kind}-{index}.npy"
            children[who].call(op="vectors", name=kind, path=str(path))
            vectors[who] = np.load(path)
    reference = vectors.pop(FP32, None)
    if reference is None:
        return {}
    return {who: min_cosine(reference, value) for who, value in vectors.items()}


def min_cosine(
    left: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    right: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> float:
    """Smallest cosine between rows of two arrays [texts, dimensions], computed in float64."""
    first, second = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / norms).min())


def _tokens(model: Path, texts: list[str]) -> int:
    from benchmarks.peers.gemm_ceiling import token_counts

    return sum(token_counts(model, texts))


def _scale(figure: Figure, factor: float) -> Figure:
    if isinstance(figure, NotRun):
        return figure
    return Samples.of(value * factor for value in figure.values)


def _median(figure: Figure) -> float:
    return figure.median if isinstance(figure, Samples) else 0.0


def _remarks(options: Options, texts: Mapping[str, list[str]], rounds: int) -> list[str]:
    counts = ", ".join(f"{len(chosen)} {name}" for name, chosen in texts.items())
    settings = (
        f"{counts} texts, seed {options.seed}, {rounds} rounds in alternation, "
        f"{options.threads} threads for each contestant."
    )
    peers = (
        "sentence-transformers: batch_size 32, normalize_embeddings, sorted by length by the "
        "library itself. Ours: one call with all texts."
    )
    ceiling = "The ceiling counts linear layers only, so the share it leaves is an upper bound."
    remarks = [settings, peers, ceiling]
    if options.cap:
        remarks.append(
            f"Instruction sets capped at {options.cap} for ATen, oneDNN, MKL and our kernels, in "
            "every contestant."
        )
    return remarks
