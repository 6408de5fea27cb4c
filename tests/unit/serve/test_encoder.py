"""Engines against transformers: the same vectors, for every architecture, pooling and batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import (
    ContextLengthError,
    ModelLoadError,
    RequestError,
    SettingsError,
    UnavailableError,
)
from serve.engines import packed, packed_native
from serve.engines.encoder import choose_device, choose_precision, load_encoder
from serve.engines.packed import PackedEncoder
from serve.engines.padded import PaddedEncoder
from serve.engines.protocol import EmbeddingEngine, PackedTokens, Vectors
from serve.engines.tokenizer import TextEncoder

PACKED = ("bert", "bert-relu", "bert-tanh", "distilbert", "roberta", "xlm-roberta")
PADDED = ("mpnet", "t5")
TEXTS = [
    "please set an alarm for nine",
    "hi",
    "what is the balance of my savings account and when was it last changed " * 3,
    "book a table for two " * 20,
    "Natalia sold clips to 48 of her friends in April, and half as many in May. " * 12,
]


def load(folder: Path, precision: str = "float32") -> EmbeddingEngine:
    return load_encoder(EncoderFolder.read(folder), device="cpu", precision=precision)


def sequences(count: int, longest: int, seed: int = 0) -> list[Any]:
    """Random token ids with lengths 1, `longest` and between."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, count)
    lengths[0], lengths[-1] = longest, 1 if count > 1 else longest
    return [random.integers(4, 100, n).astype(np.int32) for n in lengths]


def reference(model: Any, texts: list[Any], pooling: str) -> Vectors:
    """One text at a time through transformers: no padding, nothing to mask."""
    with torch.inference_mode():
        return _reference(model, texts, pooling)


def _reference(model: Any, texts: list[Any], pooling: str) -> Vectors:
    rows = []
    for text in texts:
        ids = torch.from_numpy(text.astype(np.int64))[None]
        hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        weights = torch.arange(1, len(hidden) + 1)[:, None]
        pooled = {
            "mean": hidden.mean(0),
            "cls": hidden[0],
            "lasttoken": hidden[-1],
            "max": hidden.max(0).values,
            "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5,
            "weightedmean": (hidden * weights).sum(0) / weights.sum(),
        }
        rows.append(pooled[pooling])
    return np.asarray(torch.stack(rows))


def normalized(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_same_vectors_as_transformers(
    kind: str,
    pooling: str,
    make_folder: Callable[..., Path],
    random_model: Callable[[str], Any],
) -> None:
    engine = load(make_folder(kind, pooling))
    assert isinstance(engine, PackedEncoder if kind in PACKED else PaddedEncoder)
    texts = sequences(40, 64)
    expected = normalized(reference(random_model(kind), texts, pooling))
    np.testing.assert_allclose(engine.embed(PackedTokens.pack(texts)), expected, atol=2e-5)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 40])
def test_compiled_kernels_and_plain_torch_agree(
    kind: str,
    precision: str,
    count: int,
    make_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, batch = make_folder(kind), PackedTokens.pack(sequences(count, 64))
    monkeypatch.setattr(packed, "native_suits", lambda device, dtype: True)
    compiled = load(folder, precision).embed(batch)
    monkeypatch.setattr(packed, "native_suits", lambda device, dtype: False)
    plain = load(folder, precision).embed(batch)
    least = 0.99999 if precision == "float32" else 0.999
    assert float((compiled * plain).sum(1).min()) >= least


def test_a_huge_batch_is_computed_in_steps(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, batch = load(make_folder("bert")), PackedTokens.pack(sequences(30, 64))
    whole = engine.embed(batch)
    monkeypatch.setattr(packed_native, "STEP_TOKENS", 50)
    assert np.array_equal(engine.embed(batch), whole)


@pytest.mark.parametrize("pooling", ["max", "mean_sqrt_len_tokens", "weightedmean"])
@pytest.mark.parametrize("count", [1, 30])
def test_rare_poolings_without_normalisation(
    pooling: str,
    count: int,
    make_folder: Callable[..., Path],
    random_model: Callable[[str], Any],
) -> None:
    engine = load(make_folder("bert", pooling, normalize=False))
    texts = sequences(count, 50)
    expected = reference(random_model("bert"), texts, pooling)
    np.testing.assert_allclose(engine.embed(PackedTokens.pack(texts)), expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["roberta", "t5"])
@pytest.mark.parametrize("count", [1, 2, 3, 33, 200])
def test_a_text_has_the_same_vector_in_every_batch(
    kind: str, count: int, make_folder: Callable[..., Path]
) -> None:
    engine = load(make_folder(kind))
    texts = sequences(count, 64, seed=count)
    together = engine.embed(PackedTokens.pack(texts))
    assert together.dtype == np.float32
    assert together.shape == (count, engine.dimensions)
    alone = np.concatenate([engine.embed(PackedTokens.pack([t])) for t in texts])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_the_same_batch_gives_the_same_bits(make_folder: Callable[..., Path]) -> None:
    engine = load(make_folder("bert"))
    batch = PackedTokens.pack(sequences(50, 64))
    assert np.array_equal(engine.embed(batch), engine.embed(batch))


@pytest.fixture(scope="module")
def minilm_vectors(minilm: Path) -> tuple[list[Any], Vectors]:
    """Tokens of TEXTS, and their vectors by transformers in fp32."""
    from transformers import BertModel

    encoded = TextEncoder(EncoderFolder.read(minilm)).encode(TEXTS)
    tokens = [e.tokens for e in encoded]
    model: Any = BertModel.from_pretrained(minilm)
    return tokens, normalized(reference(model.eval(), tokens, "mean"))


@pytest.mark.parametrize(
    ("precision", "least"),
    [("float32", 0.99999), ("bfloat16", 0.9995), ("float16", 0.9999), ("int8", 0.99)],
)
def test_minilm_keeps_its_vectors(
    minilm: Path, minilm_vectors: tuple[list[Any], Vectors], precision: str, least: float
) -> None:
    tokens, expected = minilm_vectors
    engine = load(minilm, precision)
    assert (engine.precision, engine.device, engine.dimensions) == (precision, "cpu", 384)
    vectors = engine.embed(PackedTokens.pack(tokens))
    assert float((vectors * expected).sum(1).min()) >= least
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    single = engine.embed(PackedTokens.pack(tokens[:1]))
    assert float((single * expected[:1]).sum()) >= least


def test_resident_bytes_are_those_of_the_weights(minilm: Path) -> None:
    full = load(minilm).resident_bytes
    # 22.7 million weights, less the pooler, the second token type and the position ids
    assert 88e6 < full < 91e6
    half = load(minilm, "bfloat16")
    # position vectors, biases and norms stay float32 in the compiled form
    assert half.resident_bytes == pytest.approx(full / 2, rel=0.02)
    half.close()
    assert half.resident_bytes == 0
    with pytest.raises(UnavailableError, match="closed"):
        half.embed(PackedTokens.pack([np.array([101, 102], dtype=np.int32)]))


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_bad_batches_are_refused_before_the_device(
    kind: str, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(kind)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    engine = load(folder)
    good = np.array([5, 6, 7], dtype=np.int32)
    for bad in (100, -1, 2**31 - 1):
        batch = PackedTokens.pack([good, np.array([5, bad], dtype=np.int32)])
        with pytest.raises(RequestError, match=f"token 1 of text 1 is {bad};.*0 to 99"):
            engine.embed(batch)
    long = np.full(65, 5, dtype=np.int32)
    with pytest.raises(ContextLengthError, match="text 1 has 65 tokens, this model reads 64"):
        engine.embed(PackedTokens.pack([good, long]))
    with pytest.raises(RequestError, match="do not describe 3 tokens"):
        engine.embed(PackedTokens(good, np.array([2], dtype=np.int32)))
    # and it still works
    assert engine.embed(PackedTokens.pack([good])).shape == (1, 32)


def test_tokens_that_cannot_be_written_are_read(make_folder: Callable[..., Path]) -> None:
    # Ray hands out arrays in shared memory, which are read-only
    engine = load(make_folder("bert"))
    batch = PackedTokens.pack(sequences(3, 10))
    batch.tokens.flags.writeable = False
    batch.lengths.flags.writeable = False
    assert engine.embed(batch).shape == (3, 32)
    one = PackedTokens(batch.tokens[:10], batch.lengths[:1])
    assert engine.embed(one).shape == (1, 32)


def test_weights_of_another_model_are_refused(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("bert")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))
    with pytest.raises(ModelLoadError, match=r"shape \[100, 32\] and config.json asks for"):
        load(folder)
    config.write_text(
        config.read_text()
        .replace('"hidden_size": 64', '"hidden_size": 32')
        .replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(ModelLoadError, match=r"lacks the tensor 'encoder.layer.2"):
        load(folder)


def test_padded_weights_are_never_made_up(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("mpnet")
    config = folder / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(ModelLoadError, match=r"lacks .* tensors"):
        load(folder)


def test_an_unknown_architecture_is_refused(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("bert")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "none"'))
    with pytest.raises(ModelLoadError, match="cannot load a 'none' model"):
        load(folder)


def test_devices_and_precisions_that_are_not_here() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(SettingsError, match="device 'tpu' is not on this machine"):
        choose_device("tpu")
    with pytest.raises(SettingsError, match="precision 'int3' is unknown"):
        choose_precision(cpu, "int3")
    assert choose_precision(torch.device("mps"), "auto") == torch.float16
    assert choose_precision(cpu, "bfloat16") == torch.bfloat16
    assert choose_device("cpu") == cpu


def test_capped_cpu_computes_in_fp32() -> None:
    # the caps are read when PyTorch starts, so this needs a process of its own
    code = (
        "import torch; from serve.engines.encoder import choose_precision;"
        "print(choose_precision(torch.device('cpu'), 'auto'))"
    )
    caps = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "PATH": ""}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], env=caps, cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "torch.float32"


def test_the_bert_family_loads_without_transformers(minilm: Path) -> None:
    code = (
        "import sys; from ironcliw.encoder_folder import EncoderFolder as F;"
        "from serve.engines.encoder import load_encoder;"
        f"load_encoder(F.read({str(minilm)!r})); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_progress_rises_to_one(kind: str, make_folder: Callable[..., Path]) -> None:
    folder = make_folder(kind)
    add_dense(folder)
    told: list[float] = []
    load_encoder(EncoderFolder.read(folder), device="cpu", progress=told.append)
    assert told == sorted(set(told))
    assert 0 < told[0] < told[-1] == 1
    # all but the pooler's 4 %, which nobody loads: without the dense layer it would be 0.91
    assert told[-2] > 0.94
    # transformers loads the second in one go
    assert len(told) > (10 if kind == "bert" else 1)


def test_progress_is_the_share_of_the_bytes(make_folder: Callable[..., Path]) -> None:
    folder = EncoderFolder.read(make_folder("bert"))
    told: list[float] = []
    load_encoder(folder, device="cpu", progress=told.append)
    total = sum(tensor.nbytes for tensor in folder.tensors.values())
    # the word vectors come first: 100 of 32 numbers, in 4 bytes each
    assert told[0] == pytest.approx(100 * 32 * 4 / total)


def test_progress_of_a_failed_load_ends_below_one(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("bert")
    config = folder / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    told: list[float] = []
    with pytest.raises(ModelLoadError, match="lacks the tensor"):
        load_encoder(EncoderFolder.read(folder), device="cpu", progress=told.append)
    assert told
    assert told[-1] < 1


def add_dense(folder: Path) -> None:
    """A dense layer of 32 x 32 behind the model's pooling."""
    dense = folder / "3_Dense"
    dense.mkdir()
    (dense / "config.json").write_text('{"activation_function": "torch.nn.Tanh"}')
    weights = {"linear.weight": torch.eye(32), "linear.bias": torch.zeros(32)}
    save_file(weights, dense / "model.safetensors")
    listing = folder / "modules.json"
    modules = json.loads(listing.read_text())
    modules.append({"path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    listing.write_text(json.dumps(modules))
