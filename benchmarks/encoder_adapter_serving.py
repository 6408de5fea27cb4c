"""Adapters of an embedding model where they are served: texts a second of batches of which each
text is under one of 1, 4 or 16, against the same batches of the base.

The engine alone, in this process: texts are tokens already, in batches as they come to a replica.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import peft
import torch

from benchmarks.harness import BenchmarkError, Goal, Options, Row, Samples, interleave
from benchmarks.texts import short_texts
from benchmarks.training_work import ALPHA, RANK
from ironcliw.encoder_folder import EncoderFolder
from ironcliw.settings import load_settings
from serve.engines.encoder import load_encoder
from serve.engines.encoder_adapters import EncoderAdapter
from serve.engines.packed import PackedEncoder
from serve.engines.protocol import PackedTokens
from serve.engines.tokenizer import TextEncoder
from serve.host import use_cpu_capability

logger = logging.getLogger(__name__)

THEME = "train"
BATCH = 32
RATE_GOALS = {1: 0.9, 4: 0.75, 16: 0.6}
_TEXTS, _QUICK_TEXTS = 512, 128


def run(options: Options) -> tuple[list[Row], list[str]]:
    """Measure.

    Raises:
        BenchmarkError: data is missing, or the engine computes no adapters here.
    """
    rounds = options.rounds or (5 if options.quick else 15)
    texts = short_texts(options.data, _QUICK_TEXTS if options.quick else _TEXTS, options.seed)
    logger.info("texts under adapters of an embedding model, %d rounds", rounds)
    rates, precision = measure_rates(options.model, texts, options.threads, rounds)
    remark = (
        f"Adapters of an embedding model: MiniLM in {precision}, LoRA r={RANK} on all linear "
        f"layers, random; {len(texts)} short texts in batches of {BATCH}, tokens given, "
        f"{rounds} rounds in alternation."
    )
    return build_rows(rates), [remark]


def build_rows(rates: Mapping[int, Sequence[float]]) -> list[Row]:
    """The rows.

    Args:
        rates: Texts a second of each round, by the number of adapters; 0 is the base.
    """
    base = Samples.of(rates[0])
    return [
        Row(
            THEME,
            f"short texts in batches of {BATCH} under {count} adapter{'s' if count > 1 else ''}",
            "texts/s",
            Samples.of(rates[count]),
            {"the base": base},
            Goal(bound, relative=True),
        )
        for count, bound in RATE_GOALS.items()
    ]


def measure_rates(
    model: Path, texts: Sequence[str], threads: int, rounds: int
) -> tuple[dict[int, list[float]], str]:
    """Texts a second of each round, by the number of adapters; and the engine's precision.

    Args:
        model: The embedding model's folder.
        texts: In the order of their batches.
        threads: Compute threads.
        rounds: At least 1.

    Raises:
        BenchmarkError: the engine computes no adapters here.
    """
    use_cpu_capability(load_settings().cpu_capability)
    folder = EncoderFolder.read(model)
    engine = load_encoder(folder, device="cpu", threads=threads)
    if not isinstance(engine, PackedEncoder):
        raise BenchmarkError(f"{model} is no model of the BERT family, whose adapters are served")
    tokens = [each.tokens for each in TextEncoder(folder).encode(list(texts))]
    batches = [PackedTokens.pack(tokens[at : at + BATCH]) for at in range(0, len(tokens), BATCH)]
    with tempfile.TemporaryDirectory(prefix="benchmark-adapters-") as made:
        folders = make_adapters(model, Path(made), max(RATE_GOALS))
        loaded = [engine.read_adapter(each) for each in folders]
    one = partial(_rate, engine, batches)
    contestants = {count: partial(one, loaded[:count]) for count in (0, *RATE_GOALS)}
    for each in contestants.values():
        each()  # not counted
    return interleave(contestants, rounds), engine.precision


def make_adapters(model: Path, folder: Path, count: int) -> list[Path]:
    """Adapters of small random weights, in peft's format.

    Args:
        model: The base's folder.
        folder: Where to.
        count: How many.
    """
    import transformers

    loader: Any = transformers.AutoModel
    base = loader.from_pretrained(model, dtype=torch.float32)
    base.pooler = None
    given = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="FEATURE_EXTRACTION"
    )
    adapted: Any = peft.get_peft_model(base, given)
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        with torch.no_grad():
            for each in adapted.parameters():
                if each.requires_grad:
                    each.normal_(0.0, 0.01, generator=generator)
        made.append(folder / str(number))
        adapted.save_pretrained(str(made[-1]), safe_serialization=True)
    return made


def _rate(
    engine: PackedEncoder, batches: Sequence[PackedTokens], adapters: Sequence[EncoderAdapter]
) -> float:
    begun = time.perf_counter()
    for batch in batches:
        if not adapters:
            engine.embed(batch)
            continue
        under = np.arange(len(batch.lengths), dtype=np.int32) % len(adapters)
        # the engine asks for the numbers alone, not whose they are
        cards = cast(Any, tuple(range(len(adapters))))
        mixed = PackedTokens(batch.tokens, batch.lengths, cards, under)
        engine.embed_adapted(mixed, adapters)
    return sum(len(batch.lengths) for batch in batches) / (time.perf_counter() - begun)
