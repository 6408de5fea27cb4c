"""Pairs that share their prompt against each answer computed alone, by transformers itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ironcliw.errors import TrainingError, UnsupportedError
from tests.unit.train.preference.pairs import make_pairs
from tests.unit.train.tiny import make_model
from train.config import make_config
from train.data.plan import StepPlan, in_order
from train.data.tokenized import TokenizedData
from train.loop.compute import Computer
from train.model.adapters import add_adapters, trainable
from train.model.fast_layers import replace_forwards
from train.model.fused import fuse
from train.model.load import load_base
from train.preference.batch import pack_pairs
from train.preference.losses import LogProbs, preference_loss
from train.preference.objective import MEASURES, PairLoss
from train.preference.options import PreferenceOptions
from train.preference.reference import KeptReference, ModelReference, answer_logprobs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def adapted(folder: Path, *, trained: bool = True, compiled: bool = True) -> Any:
    base = load_base("tiny", folder, "0" * 64, torch.float32, CPU)
    config = make_config({"model_name": str(folder), "lora_rank": 4}, "test")
    torch.manual_seed(3)
    model = add_adapters(base, config)
    if trained:
        for _, parameter in trainable(model):
            torch.nn.init.normal_(parameter, std=0.1)
    fuse(model)
    if compiled:
        replace_forwards(model, torch.float32, CPU)
    return model


def alone(folder: Path, model: Any, data: TokenizedData, row: int, side: int) -> torch.Tensor:
    """log p of one answer, with transformers' own attention and nothing beside it."""
    found = data.row(row)
    assert found.borders is not None
    first, second = found.borders
    answer = found.tokens[first:second] if side == 0 else found.tokens[second:]
    tokens = torch.tensor([*found.tokens[:first].tolist(), *answer.tolist()])
    with own_attention(model):
        logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    logs = torch.log_softmax(logits[:-1], -1).gather(1, tokens[1:, None])[:, 0]
    return logs[first - 1 :].sum()


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    config = model.get_base_model().config
    before, config._attn_implementation = config._attn_implementation, "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


@pytest.mark.parametrize("compiled", [False, True])
def test_log_probabilities_and_gradients(folder: Path, compiled: bool) -> None:
    model = adapted(folder, compiled=compiled)
    data = make_pairs(5)
    (batch,) = in_order(data, 1000)
    pairs = pack_pairs(data, batch)
    found = answer_logprobs(Computer(model, CPU), pairs)
    weights = torch.linspace(-1, 1, 5)
    (found.chosen * weights - found.rejected * weights.flip(0)).sum().backward()
    got = {name: p.grad.clone() for name, p in trainable(model)}
    model.zero_grad()
    wanted = [[alone(folder, model, data, row, side) for row in range(5)] for side in (0, 1)]
    chosen, rejected = (torch.stack(each) for each in wanted)
    torch.testing.assert_close(found.chosen, chosen, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.rejected, rejected, rtol=1e-5, atol=1e-5)
    (chosen * weights - rejected * weights.flip(0)).sum().backward()
    for name, parameter in trainable(model):
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_a_batch_is_the_sum_of_its_pairs(folder: Path) -> None:
    model = adapted(folder)
    data = make_pairs(6)
    computer = Computer(model, CPU)
    objective = PairLoss(computer, data, PreferenceOptions(), ModelReference(computer))
    (together,) = in_order(data, 1000)
    apart = in_order(data, 1)
    assert len(apart) == 6
    whole = objective.measure(together)
    parts = [objective.measure(batch) for batch in apart]
    assert len(whole) == 2 + len(MEASURES)
    assert whole == pytest.approx([sum(each) for each in zip(*parts, strict=True)], rel=1e-4)


def test_the_reference_is_the_model_without_adapters(folder: Path) -> None:
    data = make_pairs(4)
    (batch,) = in_order(data, 1000)
    pairs = pack_pairs(data, batch)
    computer = Computer(adapted(folder), CPU)
    plain = Computer(adapted(folder, trained=False), CPU)
    found = ModelReference(computer).of(pairs)
    wanted = answer_logprobs(plain, pairs)
    assert torch.equal(found.chosen, wanted.chosen.detach())
    assert not found.rejected.requires_grad
    # and it is in use again afterwards
    assert not torch.equal(answer_logprobs(computer, pairs).chosen, wanted.chosen)


def test_the_first_loss_is_ln_2(folder: Path) -> None:
    data = make_pairs(6)
    computer = Computer(adapted(folder, trained=False), CPU)
    objective = PairLoss(computer, data, PreferenceOptions(), ModelReference(computer))
    (batch,) = in_order(data, 1000)
    loss, *measures = objective.backward(batch)
    assert loss / 6 == pytest.approx(math.log(2), abs=1e-7)
    assert measures == [0, 0, 0, 0]
    objective.check_first(loss / 6)
    with pytest.raises(TrainingError, match=r"the first loss is 0\.9, and that of .* is 0\.693147"):
        objective.check_first(0.9)


def test_a_kept_reference(folder: Path) -> None:
    model = adapted(folder)
    data = make_pairs(4)
    computer = Computer(model, CPU)
    (batch,) = in_order(data, 1000)
    pairs = pack_pairs(data, batch)
    by_model = ModelReference(computer).of(pairs)
    values = torch.stack([by_model.chosen, by_model.rejected], 1).numpy()
    kept = KeptReference(values, CPU)
    assert torch.equal(kept.of(pairs).rejected, by_model.rejected)
    options = PreferenceOptions(loss="ipo", beta=0.5)
    both = [PairLoss(computer, data, options, each) for each in (kept, ModelReference(computer))]
    assert both[0].measure(batch) == both[1].measure(batch)


def test_the_loss_is_that_of_the_log_probabilities(folder: Path) -> None:
    data = make_pairs(3)
    computer = Computer(adapted(folder), CPU)
    (batch,) = in_order(data, 1000)
    pairs = pack_pairs(data, batch)
    policy, reference = answer_logprobs(computer, pairs), ModelReference(computer).of(pairs)
    lengths = torch.tensor(pairs.lengths).float()
    wanted, rewards = preference_loss(
        "sigmoid_norm", policy, reference, LogProbs(lengths[0::2], lengths[1::2]), beta=2.0
    )
    options = PreferenceOptions(loss="sigmoid_norm", beta=2.0)
    loss, *measures = PairLoss(computer, data, options, ModelReference(computer)).measure(batch)
    assert loss == pytest.approx(float(wanted.detach().sum()))
    right = float((rewards.margins > 0).sum())
    likelier = float((policy.chosen > policy.rejected).sum())
    assert measures[2:] == [pytest.approx(float(rewards.margins.sum())), right, likelier]


def test_no_reference_without_adapters(folder: Path) -> None:
    base = load_base("tiny", folder, "0" * 64, torch.float32, CPU)
    computer = Computer(base.module, CPU)
    data = make_pairs(2)
    (batch,) = in_order(data, 1000)
    with pytest.raises(UnsupportedError, match=r"set preference.reference to precomputed"):
        ModelReference(computer).of(pack_pairs(data, batch))


def test_pairs_are_units(folder: Path) -> None:
    data = make_pairs(5)
    plan = StepPlan(data, seed=0, batch_size=3, micro_batch_tokens=64)
    computer = Computer(adapted(folder), CPU)
    objective = PairLoss(computer, data, PreferenceOptions(), None)
    assert [objective.units(plan.step(number)) for number in (0, 1)] == [3, 2]
