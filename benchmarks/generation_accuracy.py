"""How near a decoder is to fp32 with the same weights: perplexity, and agreement token by token.

`python -m benchmarks.generation_accuracy FILE.gguf DATA.jsonl --lines 50` compares the decoder that
is loaded for a GGUF file with transformers in float32 on the weights that the file's blocks stand
for. Teacher forcing: both read the same text, so that one near tie does not change what follows.

N tokens of a text, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import BenchmarkError
from serve.generation.protocol import Decoder, Step

LogitsOf = Callable[[list[int]], npt.NDArray[np.float32]]
"""The tokens of a text, N of them, to the logits after each, [N, V]."""

PERPLEXITY_GOAL = 0.005
"""Most that the perplexity may differ, as a share of the reference's."""

AGREEMENT_GOAL = 0.99
"""Least share of the positions where the likeliest token is the same."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A decoder against its reference.

    Attributes:
        perplexity: Of the decoder: exp of the mean negative log-likelihood of the next token.
        reference_perplexity: The same of the reference.
        agreement: Share of all positions where both find the same token the likeliest.
        tokens: Positions that were compared.
    """

    perplexity: float
    reference_perplexity: float
    agreement: float
    tokens: int

    @property
    def change(self) -> float:
        """Of the perplexity, as a share of the reference's; above 0: worse."""
        return self.perplexity / self.reference_perplexity - 1

    @property
    def good(self) -> bool:
        """Whether both goals are met."""
        return abs(self.change) <= PERPLEXITY_GOAL and self.agreement >= AGREEMENT_GOAL


def accuracy(
    decoder_logits_fn: LogitsOf, reference_logits_fn: LogitsOf, token_lists: Iterable[list[int]]
) -> Accuracy:
    """Read texts with both.

    Args:
        decoder_logits_fn: Of what is judged.
        reference_logits_fn: Of what it is judged by.
        token_lists: The texts; those of one token have no next token and are left out.

    Raises:
        BenchmarkError: no text has two tokens.
    """
    loss = reference_loss = 0.0
    same = count = 0
    for tokens in token_lists:
        if len(tokens) < 2:
            continue
        ours, theirs = (fn(tokens)[:-1] for fn in (decoder_logits_fn, reference_logits_fn))
        following = np.asarray(tokens[1:])
        loss += _loss(ours, following)
        reference_loss += _loss(theirs, following)
        same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        count += len(following)
    if count == 0:
        raise BenchmarkError("no text of two tokens or more: there is nothing to compare")
    return Accuracy(math.exp(loss / count), math.exp(reference_loss / count), same / count, count)


def _loss(logits: npt.NDArray[np.float32], following: npt.NDArray[np.int_]) -> float:
    """Sum of the negative log-likelihoods, [N, V] and [N]."""
    wide = logits.astype(np.float64)
    largest = wide.max(1)
    total = largest + np.log(np.exp(wide - largest[:, None]).sum(1))
    return float((total - wide[np.arange(len(following)), following]).sum())


def decoder_logits(decoder: Decoder) -> LogitsOf:
    """Logits of a causal decoder; its first slot is used and freed."""

    def logits(tokens: list[int]) -> npt.NDArray[np.float32]:
        places = np.arange(len(tokens), dtype=np.int32)
        step = Step(np.asarray(tokens, np.int32), places, np.zeros_like(places), places)
        result = decoder.forward(step)
        decoder.free(0)
        return result

    return logits


def reference_logits(file: Path, folder: Path) -> LogitsOf:
    """Logits of transformers in float32, on the numbers that a GGUF file's blocks stand for.

    Args:
        file: The GGUF file.
        folder: Its config.json and tokenizer, as `converted_folder` writes them.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    make: Any = AutoModelForCausalLM.from_config
    model = make(config, dtype=torch.float32).eval()
    unknown = model.load_state_dict(_dequantized(file), strict=False).unexpected_keys
    assert not unknown, unknown
    model.tie_weights()

    @torch.inference_mode()
    def logits(tokens: list[int]) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = model(torch.tensor([tokens])).logits[0].numpy()
        return result

    return logits


def _dequantized(path: Path) -> dict[str, Any]:
    """A state dict of transformers in float32."""
    import torch

    from native_ops.gguf import GgufFile
    from native_ops.gguf_architectures import model_tensors
    from native_ops.gguf_conversion import row_order

    file = GgufFile.read(path)
    tensors = {}
    for target in model_tensors(file):
        values = file.dequantize(target.source)
        values = values.T if target.change == "transpose" else values[row_order(file, target)]
        tensors[target.name] = torch.from_numpy(np.ascontiguousarray(values))
    return tensors


def problems(data: Path, lines: int, folder: Path) -> list[list[int]]:
    """Questions with their answers, as token ids.

    Args:
        data: JSON lines with `question` and `answer`.
        lines: How many of them.
        folder: With the tokenizer.

    Raises:
        BenchmarkError: the file is absent or has fewer lines.
    """
    from tokenizers import Tokenizer

    try:
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()[:lines]]
    except FileNotFoundError:
        raise BenchmarkError(
            f"{data} is absent; `ironcliw bench fetch-data` gets the benchmarks' data"
        ) from None
    if len(rows) < lines:
        raise BenchmarkError(f"{data} has {len(rows)} lines; {lines} were asked for")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(f"{row['question']}\n{row['answer']}").ids for row in rows]


def main(arguments: Sequence[str]) -> int:
    """Compare and say so.

    Returns:
        0 where both goals are met, else 1.
    """
    from benchmarks.generation_work import folder_of, models_dir
    from serve.engines.decoders.load import LoadOptions, load_gguf

    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation_accuracy")
    parser.add_argument("file", type=Path, help="the model, a GGUF file")
    parser.add_argument("data", type=Path, help="JSON lines of questions and answers")
    parser.add_argument("--lines", type=int, default=50, help="how many of them are read")
    given = parser.parse_args(arguments)
    folder = folder_of(given.file)
    decoder = load_gguf(given.file, models_dir(), LoadOptions(device="cpu", slots=1))
    found = accuracy(
        decoder_logits(decoder),
        reference_logits(given.file, folder),
        problems(given.data, given.lines, folder),
    )
    sys.stdout.write(
        f"{type(decoder).__name__} {decoder.precision}, {found.tokens} tokens: perplexity "
        f"{found.perplexity:.4f} against {found.reference_perplexity:.4f} ({found.change:+.3%}), "
        f"agreement {found.agreement:.3%}\n"
    )
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
