"""Theme `native`: what the compiled kernels reach, against this machine's limits and other code.

Generation (memory bandwidth and the share of it, llama.cpp, a busy neighbour), accuracy, training
operators and small operators. The share of the matrix product ceiling that the embedding engine
reaches is in theme `engines`, many streams over HTTP in theme `generation`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from benchmarks.harness import Options, Row, ThemeResult
from benchmarks.native_accuracy import accuracy_rows
from benchmarks.native_generation import generation_rows
from benchmarks.native_small import small_rows
from benchmarks.native_training import training_rows
from ironcliw.settings import load_settings
from serve.host import use_cpu_capability

logger = logging.getLogger(__name__)

THEME = "native"
PARTS: dict[str, Callable[[Options], list[Row]]] = {
    "generation": generation_rows,
    "accuracy": accuracy_rows,
    "training operators": training_rows,
    "small operators": small_rows,
}


def run(options: Options) -> ThemeResult:
    """Every part, one after the other.

    Raises:
        BenchmarkError: data is missing, or a contestant died.
    """
    use_cpu_capability(load_settings().cpu_capability)
    rows: list[Row] = []
    for name, part in PARTS.items():
        logger.info("native: %s", name)
        rows += part(options)
    return ThemeResult(rows, _remarks(options))


def _remarks(options: Options) -> list[str]:
    roof = (
        "The fastest read is a sum over 512 MB of int64 with one or two threads. Bytes a token are "
        "those of the weights in the GGUF file and of the KV cache, half full, in 16 bits; the "
        "rate is that after the first token."
    )
    neighbour = (
        "The busy process is a Python loop that keeps one core at 100 %; it is started and ended "
        "around each figure beside it."
    )
    accuracy = (
        "Accuracy: teacher forcing on GSM8K's evaluation texts, against transformers in fp32 on "
        "the weights that the file's blocks stand for."
    )
    elsewhere = (
        "The share of the matrix product ceiling that embeddings reach is in theme `engines`, "
        "streams over HTTP in theme `generation`."
    )
    capped = [f"Capped at {options.cap}: ATen, oneDNN, our kernels, and llama.cpp as compiled."]
    return [roof, neighbour, accuracy, elsewhere, *(capped if options.cap else [])]
