"""Packed rows against the same rows one by one, with transformers' own attention."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from ironcliw.errors import UnsupportedError
from tests.unit.train.tiny import WORDS, make_model
from train.model.load import load_base
from train.model.packed_attention import NAME, STARTS, packed_attention, register

LENGTHS = (5, 11, 1, 7)
WINDOW = 4
KINDS = ("llama", "mistral", "qwen2", "qwen3", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def load(folder: Path, kind: str, attention: str) -> Any:
    import transformers

    register()
    config = transformers.AutoConfig.from_pretrained(folder)
    if kind == "mistral":
        config.sliding_window = WINDOW
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation=attention
    )
    return model.eval()


def rows(seed: int = 3) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.randint(0, WORDS, (length,), generator=made) for length in LENGTHS]


def packed_logits(model: Any, given: list[torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = model(
        input_ids=torch.cat(given)[None],
        position_ids=torch.cat([torch.arange(len(row)) for row in given])[None],
        use_cache=False,
        **{STARTS: [0, *itertools.accumulate(len(row) for row in given)]},
    ).logits[0]
    return logits


def gradients(model: Any, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    # every logit with a weight of its own
    weights = torch.linspace(-1, 1, logits.numel()).view(logits.shape)
    (logits * weights).sum().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_are_the_rows_one_by_one(kind: str, folders: dict[str, Path]) -> None:
    packed, plain = load(folders[kind], kind, NAME), load(folders[kind], kind, "sdpa")
    found = packed_logits(packed, rows())
    expected = torch.cat([plain(input_ids=row[None], use_cache=False).logits[0] for row in rows()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(packed, found), gradients(plain, expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        scale = float(theirs[name].abs().max())
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5 * max(1.0, scale))


def test_the_window_matters(folders: dict[str, Path]) -> None:
    windowed = packed_logits(load(folders["mistral"], "mistral", NAME), rows())
    whole = packed_logits(load(folders["mistral"], "", NAME), rows())
    first, second = LENGTHS[0], LENGTHS[0] + LENGTHS[1]
    assert torch.equal(windowed[:WINDOW], whole[:WINDOW])
    assert not torch.allclose(windowed[first + WINDOW : second], whole[first + WINDOW : second])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_no_row_sees_another(kind: str, changed: int, folders: dict[str, Path]) -> None:
    model = load(folders[kind], kind, NAME)
    before, after = rows(), rows()
    after[changed] = (after[changed] + 1) % WORDS
    with torch.no_grad():
        found = [packed_logits(model, each).split(LENGTHS) for each in (before, after)]
    for row, (old, new) in enumerate(zip(*found, strict=True)):
        assert torch.equal(old, new) == (row != changed), f"row {row}"


@pytest.mark.parametrize("given", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}])
def test_an_attention_that_does_more_is_refused(given: dict[str, Any]) -> None:
    x = torch.zeros(1, 4, 3, 8)
    module = torch.nn.Module()
    with pytest.raises(UnsupportedError, match="train another architecture"):
        packed_attention(module, x, x, x, None, **{STARTS: [0, 3]}, **given)
    packed_attention(module, x, x, x, None, softcap=None, **{STARTS: [0, 3]})


def test_a_model_drops_nothing_that_the_run_did_not_ask_for(folders: dict[str, Path]) -> None:
    """GPT-2 is published with a dropout of 0.1 in three places."""
    device = torch.device("cpu")
    model = load_base("gpt2", folders["gpt2"], "", torch.float32, device).module
    assert model.training
    with torch.no_grad():
        training = packed_logits(model, rows())
        assert torch.equal(training, packed_logits(model.eval(), rows()))
