"""Classifiers and their tokenizer against transformers, with small random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers as t

from ironcliw.errors import ContextLengthError, ModelLoadError, RequestError
from serve.engines.classifier import load_classifier
from serve.engines.pair_tokenizer import PairEncoder
from serve.engines.protocol import PackedTokens
from tests.unit.serve.small_classifiers import (
    LABELS,
    NLI,
    SIZES,
    TEXTS,
    save_classifier,
    small_classifier,
    small_tokenizer,
)


@pytest.fixture(scope="module")
def make_classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_classifier(kind, labels=NLI)` writes a model folder and returns it."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str, labels: dict[int, str] = NLI) -> Path:
        key = (kind, str(labels))
        if key not in made:
            made[key] = save_classifier(tmp_path_factory.mktemp(kind), kind, labels)
        return made[key]

    return make


def own_logits(folder: Path, template: str) -> np.ndarray:
    encoder = PairEncoder.load(folder)
    hypotheses = [template.format(label) for label in LABELS]
    sequences = [item.tokens for text in TEXTS for item in encoder.pairs(text, hypotheses)]
    engine = load_classifier(folder, device="cpu", precision="float32")
    assert engine.labels == tuple(NLI.values()) == encoder.labels
    return engine.classify(PackedTokens.pack(sequences)).reshape(len(TEXTS), len(LABELS), -1)


@pytest.mark.parametrize("template", ["This example is {}.", "{} please and a song"])
@pytest.mark.parametrize("kind", ["bart", "roberta", "bert", "distilbert", "deberta"])
def test_scores_equal_those_of_the_zero_shot_pipeline(
    kind: str, template: str, make_classifier: Callable[..., Path]
) -> None:
    folder = make_classifier(kind)
    model = t.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    peer = t.pipeline(
        "zero-shot-classification",
        model=model,
        tokenizer=t.PreTrainedTokenizerFast.from_pretrained(folder),
        device="cpu",
    )
    logits = own_logits(folder, template)
    entailment = logits[..., 2]
    single = np.exp(entailment) / np.exp(entailment).sum(1, keepdims=True)
    both = np.exp(logits[..., [0, 2]])
    multi = both[..., 1] / both.sum(-1)
    for ours, several in ((single, False), (multi, True)):
        answers = peer(TEXTS, LABELS, multi_label=several, hypothesis_template=template)
        for row, answer in zip(ours, answers, strict=True):
            theirs = dict(zip(answer["labels"], answer["scores"], strict=True))
            assert row == pytest.approx([theirs[label] for label in LABELS], abs=1e-4)
            assert np.ptp(row) > 0.002  # a model that always says the same would pass too


def test_a_long_text_is_cut_and_the_hypothesis_is_not(
    make_classifier: Callable[..., Path],
) -> None:
    folder = make_classifier("bart")
    text, hypothesis = "turn on the lights " * 40, "This example is about music."
    tokenizer = t.PreTrainedTokenizerFast.from_pretrained(folder)
    expected = tokenizer(text, hypothesis, truncation="only_first", max_length=48)["input_ids"]
    (pair,) = PairEncoder.load(folder).pairs(text, [hypothesis])
    assert pair.tokens.tolist() == expected
    whole = tokenizer(text, hypothesis, truncation=False)["input_ids"]
    assert pair.truncated == len(whole) - 48
    (single,) = PairEncoder.load(folder).single([text])
    assert single.tokens.tolist() == tokenizer(text, truncation=True)["input_ids"]
    assert single.truncated > 0


def test_a_hypothesis_that_fills_the_window_is_refused(
    make_classifier: Callable[..., Path],
) -> None:
    with pytest.raises(ContextLengthError, match="leaves none of the model's 48 to the text"):
        PairEncoder.load(make_classifier("bart")).pairs("a text", ["music " * 60])


def test_a_separator_written_in_a_text_is_text(make_classifier: Callable[..., Path]) -> None:
    encoder = PairEncoder.load(make_classifier("bert"))
    (pair,) = encoder.pairs("on </s> the", ["music"])
    assert pair.tokens.tolist().count(2) == 2
    assert encoder.separator == 2


@pytest.mark.parametrize("kind", ["bart", "bert"])
def test_a_text_gets_the_same_logits_whatever_else_is_in_the_batch(
    kind: str, make_classifier: Callable[..., Path]
) -> None:
    folder = make_classifier(kind)
    encoder = PairEncoder.load(folder)
    engine = load_classifier(folder, device="cpu", precision="float32")
    mixed = [*encoder.single(TEXTS), *encoder.pairs(TEXTS[1], LABELS), *encoder.single(["a"])]
    together = engine.classify(PackedTokens.pack([item.tokens for item in mixed]))
    alone = [engine.classify(PackedTokens.pack([item.tokens]))[0] for item in mixed]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_progress_rises_to_one_and_a_closed_engine_says_so(
    make_classifier: Callable[..., Path],
) -> None:
    told: list[float] = []
    engine = load_classifier(make_classifier("bert"), device="cpu", progress=told.append)
    assert told[-1] == 1.0
    assert engine.resident_bytes > 10_000
    engine.close()
    with pytest.raises(Exception, match="this engine was closed"):
        engine.classify(PackedTokens.pack([np.array([0, 2], np.int32)]))


class TestBadInput:
    def test_an_encoder_without_a_classification_head(self, tmp_path: Path) -> None:
        t.BertModel(t.BertConfig(**SIZES)).save_pretrained(tmp_path)
        small_tokenizer("bert").save_pretrained(tmp_path)
        with pytest.raises(ModelLoadError, match=r"lacks 2 tensors .* not trained to classify"):
            load_classifier(tmp_path, device="cpu")

    def test_no_tokenizer(self, tmp_path: Path) -> None:
        small_classifier("bert", NLI).save_pretrained(tmp_path)
        with pytest.raises(ModelLoadError, match=r"tokenizer\.json is absent"):
            PairEncoder.load(tmp_path)

    def test_a_damaged_tokenizer(self, tmp_path: Path) -> None:
        small_classifier("bert", NLI).save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(ModelLoadError, match=r"tokenizer\.json is damaged"):
            PairEncoder.load(tmp_path)

    def test_labels_without_numbers(self, make_classifier: Callable[..., Path]) -> None:
        folder = make_classifier("bert", {0: "no", 1: "yes"})
        file = folder / "config.json"
        config = {**json.loads(file.read_text()), "id2label": {"x": "no"}}
        file.write_text(json.dumps(config))
        with pytest.raises(ModelLoadError, match="id2label must map numbers to names"):
            PairEncoder.load(folder)

    def test_tokens_outside_the_vocabulary_or_without_an_end(
        self, make_classifier: Callable[..., Path]
    ) -> None:
        engine = load_classifier(make_classifier("bart"), device="cpu")
        with pytest.raises(RequestError, match="ids go from 0 to 299"):
            engine.classify(PackedTokens.pack([np.array([0, 300, 2], np.int32)]))
        with pytest.raises(RequestError, match=r"text 1 has no end token \(2\)"):
            two = [np.array([0, 2], np.int32), np.array([0, 5], np.int32)]
            engine.classify(PackedTokens.pack(two))
        with pytest.raises(ContextLengthError, match="has 49 tokens, this model reads 48"):
            engine.classify(PackedTokens.pack([np.full(49, 2, np.int32)]))
