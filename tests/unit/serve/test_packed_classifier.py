"""Classifiers on compiled kernels against the same models in transformers' modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError, RequestError, UnavailableError
from serve.engines import classifier, native_stack
from serve.engines.bart import BartBody
from serve.engines.bart_weights import bart_like
from serve.engines.bert import BertBody
from serve.engines.classifier import load_classifier
from serve.engines.packed_classifier import PackedClassifier
from serve.engines.padded_classifier import PaddedClassifier
from serve.engines.pair_tokenizer import PairEncoder
from serve.engines.protocol import PackedTokens
from tests.unit.serve.small_classifiers import LABELS, TEXTS, save_classifier, small_tokenizer

KINDS = ("bart", "bert", "distilbert", "roberta")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_classifier(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return make


@pytest.fixture(autouse=True)
def kernels_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled path, or its references, on whatever machine the tests run."""
    monkeypatch.setattr(classifier, "native_suits", lambda device, dtype: True)


def pairs(folder: Path) -> PackedTokens:
    """Pairs of several lengths, and a text by itself."""
    encoder = PairEncoder.load(folder)
    found = [pair.tokens for text in TEXTS for pair in encoder.pairs(text, LABELS)]
    return PackedTokens.pack([*found, *(text.tokens for text in encoder.single(TEXTS))])


def theirs(folder: Path, batch: PackedTokens) -> np.ndarray[Any, Any]:
    return PaddedClassifier(EncoderFolder.read(folder), CPU, torch.float32).classify(batch)


def probabilities(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    parts = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(parts / parts.sum(1, keepdims=True))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_transformers(kind: str, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of(kind)
    engine = load_classifier(folder, device="cpu", precision="float32")
    assert isinstance(engine, PackedClassifier)
    assert (engine.device, engine.precision) == ("cpu", "float32")
    batch = pairs(folder)
    expected = theirs(folder, batch)
    assert np.ptp(expected, axis=0).min() > 0.05  # else a model that is always the same would pass
    np.testing.assert_allclose(engine.classify(batch), expected, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 2e-2), ("int8", 1e-1)])
@pytest.mark.parametrize("kind", KINDS)
def test_rounded_weights_move_no_probability_far(
    kind: str, precision: str, tolerance: float, folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of(kind)
    engine = load_classifier(folder, device="cpu", precision=precision)
    assert engine.precision == precision
    batch = pairs(folder)
    ours, expected = probabilities(engine.classify(batch)), probabilities(theirs(folder, batch))
    # rows of 32 numbers average little out: 1e-2 is kept by models of a usual width
    assert np.abs(ours - expected).max() < tolerance
    assert np.abs(ours - expected).max() > 0  # they are rounded


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_batch(
    kind: str, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_classifier(folder_of(kind), device="cpu", precision="float32")
    batch = pairs(folder_of(kind))
    whole = engine.classify(batch)
    for body in (BartBody, BertBody):
        monkeypatch.setattr(body, "step_tokens", 30)
    # the head is a product of PyTorch's, whose sums may be in another order
    np.testing.assert_allclose(engine.classify(batch), whole, atol=1e-5)


def test_steps_are_runs_of_whole_texts() -> None:
    batch = PackedTokens.pack([np.full(n, n, np.int32) for n in (3, 2, 9, 1, 4)])
    found = [
        (texts.tokens.tolist(), texts.starts.tolist()) for texts in native_stack.steps(batch, 5)
    ]
    assert found == [
        ([3] * 3 + [2] * 2, [0, 3, 5]),
        ([9] * 9, [0, 9]),
        ([1] + [4] * 4, [0, 1, 5]),
    ]


def test_bart_reads_the_last_end_and_nothing_behind_it(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("bart")
    texts = [[0, 7, 2, 2, 9, 2], [0, 8, 2, 5, 6], [2], [0, 2, 7, 7, 7, 7, 7]]
    engine = load_classifier(folder, device="cpu", precision="float32")
    for text in texts:  # one by one: transformers wants equally many ends in each row
        batch = PackedTokens.pack([np.array(text, np.int32)])
        np.testing.assert_allclose(engine.classify(batch), theirs(folder, batch), atol=1e-4)
    together = PackedTokens.pack([np.array(text, np.int32) for text in texts])
    each = [theirs(folder, PackedTokens.pack([np.array(text, np.int32)]))[0] for text in texts]
    np.testing.assert_allclose(engine.classify(together), each, atol=1e-4)


def test_scaled_words_and_another_start_are_read_from_the_config(
    tmp_path: Path,
) -> None:
    folder = save_classifier(tmp_path, "bart")
    change(folder, scale_embedding=True, decoder_start_token_id=0, activation_function="relu")
    batch = pairs(folder)
    engine = load_classifier(folder, device="cpu", precision="float32")
    np.testing.assert_allclose(engine.classify(batch), theirs(folder, batch), atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"model_type": "mbart"}, {"activation_function": "silu"}, {"decoder_layers": 0}],
    ids=str,
)
def test_what_the_kernels_do_not_compute_is_left_to_transformers(changes: dict[str, Any]) -> None:
    config = {"model_type": "bart", "activation_function": "gelu", "decoder_layers": 12}
    assert bart_like(config) is not None
    assert bart_like({**config, **changes}) is None


def test_another_architecture_and_another_device_take_transformers(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(
        load_classifier(save_classifier(tmp_path, "deberta"), device="cpu"), PaddedClassifier
    )
    monkeypatch.setattr(classifier, "native_suits", native_stack.native_suits)
    # no level has float16 kernels
    engine = load_classifier(folder_of("bart"), device="cpu", precision="float16")
    assert isinstance(engine, PaddedClassifier)
    assert engine.precision == "float16"


def test_bytes_fall_with_the_precision_and_end_with_the_engine(
    folder_of: Callable[[str], Path],
) -> None:
    folder = folder_of("bart")
    held = {
        precision: load_classifier(folder, device="cpu", precision=precision).resident_bytes
        for precision in ("float32", "bfloat16")
    }
    stored = sum(tensor.nbytes for tensor in EncoderFolder.read(folder).tensors.values())
    # two rows of each position table are not kept; panels of 32 columns are filled up
    assert 0.95 * stored < held["float32"] < 1.05 * stored
    assert held["bfloat16"] < 0.7 * held["float32"]
    engine = load_classifier(folder, device="cpu")
    engine.close()
    assert engine.resident_bytes == 0
    with pytest.raises(UnavailableError, match="this engine was closed"):
        engine.classify(pairs(folder))


def change(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


class TestBadInput:
    def test_no_head(self, tmp_path: Path) -> None:
        config = t.BartConfig(
            vocab_size=300, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64
        )
        t.BartModel(config).save_pretrained(tmp_path)
        small_tokenizer("bart").save_pretrained(tmp_path)
        with pytest.raises(
            ModelLoadError, match=r"lacks 4 tensors .*'classification_head\.dense\.bias'"
        ):
            load_classifier(tmp_path, device="cpu")

    def test_labels_and_weights_of_different_models(self, tmp_path: Path) -> None:
        folder = save_classifier(tmp_path, "bert")
        change(folder, id2label={"0": "no", "1": "yes"})
        with pytest.raises(ModelLoadError, match=r"names 2 classes \(0, 1\) .* weights have 3"):
            load_classifier(folder, device="cpu")

    def test_heads_that_do_not_divide_the_width(self, tmp_path: Path) -> None:
        folder = save_classifier(tmp_path, "bart")
        change(folder, decoder_attention_heads=5)
        with pytest.raises(ModelLoadError, match="5 attention heads do not divide d_model, 32"):
            load_classifier(folder, device="cpu")

    def test_a_tensor_of_another_shape(self, tmp_path: Path) -> None:
        folder = save_classifier(tmp_path, "bart")
        change(folder, d_model=64)
        with pytest.raises(ModelLoadError, match="the two are of different models"):
            load_classifier(folder, device="cpu")

    def test_a_text_without_an_end(self, folder_of: Callable[[str], Path]) -> None:
        engine = load_classifier(folder_of("bart"), device="cpu")
        two = [np.array([0, 2], np.int32), np.array([0, 5], np.int32)]
        with pytest.raises(RequestError, match=r"text 1 has no end token \(2\)"):
            engine.classify(PackedTokens.pack(two))
