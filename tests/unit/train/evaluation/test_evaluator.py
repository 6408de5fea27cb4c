"""Measures against those of transformers' own attention, one row and one token at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.unit.train.evaluation.rows_of_text import (
    TOKENIZER,
    encoded,
    make_text_model,
    text_rows,
)
from tests.unit.train.tiny import make_job
from train.config import make_config
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData
from train.evaluation.evaluator import Evaluator
from train.evaluation.generation import generate
from train.evaluation.labels import branches
from train.evaluation.rows import Question
from train.job import Job
from train.loop.compute import Computer
from train.loop.shares import InterruptedEvaluationError
from train.model.load import load_base
from train.model.packed_attention import NAME
from train.outcome import read_outcome
from train.run_files import LOG
from train.tokenizer import TrainingTokenizer
from train.worker import work

PROMPTS = ("a", "what is this", "to be or not", "x y")
KINDS: dict[str, dict[str, object]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 6},
    "Qwen3": {},
    "GPT2": {},
    "Llama-biased-head": {},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param
    made = tmp_path_factory.mktemp(kind)
    return make_text_model(made, kind.partition("-")[0], **KINDS[kind])


def load(folder: Path) -> Any:
    module = load_base("m", folder, "", torch.float32, torch.device("cpu")).module.eval()
    if "biased" in folder.name:
        # a head that is more than a product: its logits are the model's own business
        head = module.get_output_embeddings()
        head.bias = torch.nn.Parameter(torch.linspace(-1, 1, len(head.weight)))
    return module


def plain(folder: Path) -> Callable[[list[int]], torch.Tensor]:
    """Log-probabilities [T, V] of a row alone, by transformers' eager attention."""
    module = load(folder)
    module.set_attn_implementation("eager")

    def logprobs(tokens: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(module(torch.tensor([tokens])).logits[0], -1)

    return logprobs


def greedy(logprobs: Callable[[list[int]], torch.Tensor], prompt: list[int], new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(int(logprobs(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def rows_of(pairs: list[tuple[list[int], list[int]]]) -> TokenizedData:
    made = [
        TokenRow(np.array(p + a, np.int32), np.arange(len(p) + len(a)) >= len(p)) for p, a in pairs
    ]
    return TokenizedData.of_rows(made, [(0, at) for at in range(len(made))], ["rows"])


def evaluator(folder: Path, data: TokenizedData, **options: Any) -> Evaluator:
    module = load(folder)
    given = {"model_name": "m", "micro_batch_tokens": 64, "evaluation": options}
    computer = Computer(module, torch.device("cpu"))
    return Evaluator(computer, module, data, data, make_config(given, "test"), 4, TOKENIZER)


def test_exact_match_is_what_greedy_decoding_would_write(folder: Path) -> None:
    logprobs = plain(folder)
    pairs = [(encoded(prompt), greedy(logprobs, encoded(prompt), 5)) for prompt in PROMPTS]
    wrong = [*pairs[3][1][:4], (pairs[3][1][4] + 1) % 256]
    data = rows_of([*pairs[:3], (pairs[3][0], wrong)])
    found = evaluator(folder, data, metrics=["exact_match"]).measure(0, 8)
    assert found is not None
    assert found["exact_match"] == 0.75
    assert found["eval_rows"] == 4
    expected = [
        -float(logprobs(p + a)[at - 1, (p + a)[at]])
        for p, a in [*pairs[:3], (pairs[3][0], wrong)]
        for at in range(len(p), len(p) + len(a))
    ]
    assert found["eval_loss"] == pytest.approx(float(np.mean(expected)), rel=1e-4)


def test_a_batch_is_generated_as_each_prompt_alone(folder: Path) -> None:
    logprobs = plain(folder)
    prompts = [tuple(encoded(prompt)) for prompt in PROMPTS]
    expected = [greedy(logprobs, list(prompt), 8) for prompt in prompts]
    end = expected[1][4]  # ends some answers early, wherever it stands first
    expected = [each[: each.index(end)] if end in each else each for each in expected]
    model = load(folder)
    for most_tokens in (1, 1000):
        given: dict[str, Any] = {"ends": [end], "most_new": 8, "most_tokens": most_tokens}
        assert generate(model, prompts, **given, notice=lambda: False) == expected
    assert model.config._attn_implementation == NAME


def test_the_likeliest_label_is_the_decision(folder: Path) -> None:
    logprobs = plain(folder)
    labels = ["yes", "no", "ye", "perhaps later"]
    data = text_rows([(prompt, label) for prompt, label in zip(PROMPTS, labels, strict=True)])
    ends = [[*encoded(label), 2] for label in labels]

    def score(prompt: list[int], label: list[int]) -> float:
        rows = logprobs(prompt + label)
        return sum(float(rows[len(prompt) + at - 1, token]) for at, token in enumerate(label))

    for prompt in PROMPTS:
        (whole,) = branches(Question(tuple(encoded(prompt)), ()), [*map(tuple, ends)], 99)
        seen = Computer(load(folder), torch.device("cpu")).examine(whole.batch, tree=whole.ends)
        parts = np.split(seen.logprobs, np.cumsum(whole.counts)[:-1])
        expected = [score(encoded(prompt), end) for end in ends]
        assert [float(part.sum()) for part in parts] == pytest.approx(expected, rel=1e-4)
    likeliest = [
        labels[int(np.argmax([score(encoded(prompt), end) for end in ends]))] for prompt in PROMPTS
    ]
    found = evaluator(folder, data, metrics=["decision_accuracy"]).measure(0, 8)
    assert found is not None
    right = sum(mine == label for mine, label in zip(likeliest, labels, strict=True))
    assert found["decision_accuracy"] == right / 4
    agreed = text_rows(list(zip(PROMPTS, likeliest, strict=True)))
    # less room than all labels need: the prompt is read several times
    some = evaluator(folder, agreed, metrics=["decision_accuracy"], labels=labels)
    some._most_tokens = 20
    found = some.measure(0, 8)
    assert found is not None
    assert found["decision_accuracy"] == 1.0


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("llama"))


NUMBERS = (("one and two", "3"), ("two and two", "so 4"), ("one and one", "2"))


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_a_notice_ends_every_measure(after: int, llama: Path) -> None:
    asked = 0

    def notice() -> bool:
        nonlocal asked
        asked += 1
        return asked > after

    metrics = ["exact_match", "decision_accuracy"]
    data = text_rows(NUMBERS)
    found = evaluator(llama, data, metrics=metrics, match="last_number", max_new_tokens=3)
    assert found._computer.set_training(True) is False
    with pytest.raises(InterruptedEvaluationError):
        found.measure(0, 8, notice)
    assert found._computer.set_training(False) is True
    assert found._model.config._attn_implementation == NAME
    assert asked == after + 1
    with pytest.raises(InterruptedEvaluationError):
        generate(found._model, [(1,)], ends=[], most_new=1, most_tokens=9, notice=lambda: True)


def test_when_a_measure_is_due(llama: Path) -> None:
    data = text_rows(NUMBERS)
    measured = evaluator(llama, data, every_epochs=2)
    assert [step for step in range(12) if measured.measure(step, 11)] == [0, 8, 11]
    only_end = evaluator(llama, data, every_epochs=0)
    assert [step for step in range(12) if only_end.measure(step, 11)] == [0, 11]


def text_job(folder: Path, model: Path, **evaluation: Any) -> Job:
    given: dict[str, Any] = {"evaluation": evaluation, "lora_dropout": 0.1, "num_epochs": 6}
    job = make_job(folder, model, **given)
    data = text_rows(NUMBERS)
    return dataclasses.replace(job, train=data, held_out=data, tokenizer=TOKENIZER)


def weights(job: Job) -> dict[str, bytes]:
    found = load_file(Path(job.uri) / "adapter" / "adapter_model.safetensors")
    return {name: each.numpy().tobytes() for name, each in found.items()}


def log_lines(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(job.uri) / LOG).read_text().splitlines()]


@pytest.mark.parametrize("match", ["exact", "last_number"])
def test_measures_change_no_bit_of_the_training(match: str, tmp_path: Path, llama: Path) -> None:
    without = dataclasses.replace(text_job(tmp_path / "a", llama), held_out=None)
    work(without)
    metrics = ["exact_match", "decision_accuracy"]
    job = text_job(tmp_path / "b", llama, metrics=metrics, match=match, max_new_tokens=4)
    work(job)
    assert weights(job) == weights(without)
    measured = [line for line in log_lines(job) if line.get("event") == "evaluation"]
    assert len(measured) == 7
    losses = [
        [line["loss_hex"] for line in log_lines(each) if "loss" in line] for each in (job, without)
    ]
    assert losses[0] == losses[1]
    outcome = read_outcome(job.uri)
    assert outcome is not None
    assert outcome["evaluation"] == measured[-1]
    assert {*metrics, "eval_loss", "perplexity"} <= measured[-1].keys()


def test_training_is_seen_by_every_measure(tmp_path: Path, llama: Path) -> None:
    job = text_job(tmp_path, llama, metrics=["exact_match", "decision_accuracy"])
    changes = {"num_epochs": 40, "lora_dropout": 0.0, "learning_rate": 3e-2, "lora_rank": 8}
    job = dataclasses.replace(job, config=job.config.model_copy(update=changes))
    work(job)
    outcome = read_outcome(job.uri)
    assert outcome is not None
    assert outcome["before"]["exact_match"] == 0.0
    assert outcome["evaluation"]["exact_match"] == 1.0
    assert outcome["evaluation"]["decision_accuracy"] == 1.0
    assert outcome["evaluation"]["eval_loss"] < outcome["before"]["eval_loss"]
    number = text_job(tmp_path / "b", llama, metrics=["exact_match"], match="last_number")
    number = dataclasses.replace(number, config=number.config.model_copy(update=changes))
    work(number)
    outcome = read_outcome(number.uri)
    assert outcome is not None
    assert outcome["evaluation"]["exact_match"] == 1.0


def test_a_whole_model_comes_with_its_tokenizer(tmp_path: Path, llama: Path) -> None:
    job = text_job(tmp_path, llama)
    changes = {"use_lora": False, "lora_dropout": 0.0, "max_steps": 1}
    work(dataclasses.replace(job, config=job.config.model_copy(update=changes)))
    found = TrainingTokenizer.load(str(Path(job.uri) / "model"), job.settings)
    assert found.encode(["some text"], special=False) == [encoded("some text")]
    assert found.has_template
