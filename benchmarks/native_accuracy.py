"""Theme `native`, accuracy: our decoder on the GGUF file against fp32 on the same weights.

Taken in a process of its own, so that the cap on the instruction set holds for it too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import generation_accuracy, generation_work
from benchmarks.child import Child, Embed
from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples
from ironcliw.settings import load_settings
from serve.host import use_cpu_capability

THEME = "native"
DATA = "sft/gsm8k_eval_200.jsonl"
LINES, QUICK_LINES = 200, 10
_BUILDER = "benchmarks.native_accuracy:build"
_SECONDS = 3600.0


def build(file: Path, threads: int) -> Embed:
    """A contestant whose one piece of work is (path of the data, number of lines)."""
    from serve.engines.decoders.load import LoadOptions, load_gguf

    use_cpu_capability(load_settings().cpu_capability)
    options = LoadOptions(device="cpu", threads=threads, slots=1)
    decoder = load_gguf(file, generation_work.models_dir(), options)
    folder = generation_work.folder_of(file)
    reference = generation_accuracy.reference_logits(file, folder)

    def compare(texts: list[str]) -> list[float]:
        path, lines = texts
        found = generation_accuracy.accuracy(
            generation_accuracy.decoder_logits(decoder),
            reference,
            generation_accuracy.problems(Path(path), int(lines), folder),
        )
        # float32 on its way back holds a change of 1e-5 in full
        return [found.change, found.agreement, found.reference_perplexity, found.tokens]

    return compare


def accuracy_rows(options: Options) -> list[Row]:
    """Perplexity and agreement of the next token, with their goals.

    Raises:
        BenchmarkError: the data is missing, or the process died.
    """
    lines = QUICK_LINES if options.quick else LINES
    with tempfile.TemporaryDirectory() as folder:
        file, log = generation_work.gguf_file(), Path(folder) / "accuracy.log"
        with Child(_BUILDER, file, options.threads, options.child_environment(), log) as child:
            reason = child.wait_ready(_SECONDS)
            if reason is not None:
                return build_rows(reason, lines)
            child.call(op="texts", name="work", texts=[str(options.data / DATA), str(lines)])
            path = Path(folder) / "accuracy.npy"
            child.call(_SECONDS, op="vectors", name="work", path=str(path))
            return build_rows([float(value) for value in np.load(path)], lines)


def build_rows(found: list[float] | NotRun, lines: int) -> list[Row]:
    """Rows from (change of the perplexity, agreement, the reference's perplexity, tokens)."""
    figures: list[Figure]
    if isinstance(found, NotRun):
        figures, note = [found, found], ""
    else:
        change, agreement, perplexity, tokens = found
        figures = [Samples.of([100 * abs(change)]), Samples.of([100 * agreement])]
        note = f"fp32 has a perplexity of {perplexity:.3f}; {tokens:.0f} tokens"
    most = Goal(100 * generation_accuracy.PERPLEXITY_GOAL, at_most=True)
    least = Goal(100 * generation_accuracy.AGREEMENT_GOAL)
    texts = f"{lines} answers of GSM8K"
    return [
        Row(THEME, f"perplexity, off fp32 on {texts}", "%", figures[0], goal=most, note=note),
        Row(THEME, f"likeliest next token as fp32 on {texts}", "%", figures[1], goal=least),
    ]
