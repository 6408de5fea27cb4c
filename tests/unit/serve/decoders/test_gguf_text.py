"""The text half of a GGUF file says what the converted folder says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import ModelLoadError
from ironcliw.setting_sections import ModelSettings
from native_ops import gguf_conversion as conversion
from native_ops.gguf_conversion import converted_folder
from native_ops.gguf_text import GgufText
from serve.generation.text import load_text_side
from tests.unit.serve.decoders.gguf_models import END, START, TOKENS, write_sample

SAID = [{"role": "user", "content": "cab"}]


def card(path: Path) -> ModelCard:
    return Catalog({"m": ModelSettings(source=f"dir:{path}", task="generation")})["m"]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_text_side_is_that_of_the_converted_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, name)
    folder = load_text_side(card(converted_folder(path, tmp_path)), tmp_path)
    text = load_text_side(card(path), tmp_path)
    for fact in ("context", "vocabulary", "end_tokens", "seq2seq", "defaults"):
        assert getattr(text, fact) == getattr(folder, fact), fact
    assert text.end_tokens == {START, END}
    assert (text.context, text.vocabulary) == (128, len(TOKENS))
    rendered = text.render(SAID)
    assert rendered == folder.render(SAID)
    for given in (rendered, "cab <|im_start|>b", ""):
        assert text.encode(given).tolist() == folder.encode(given).tolist()
        assert text.decode([1, 2, END]) == folder.decode([1, 2, END])


def test_nothing_is_converted_for_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path)
    monkeypatch.setattr(conversion, "file_digest", lambda *_: pytest.fail("hashed"))
    load_text_side(card(path), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match=r"model\.gguf"):
        GgufText.read(path)
