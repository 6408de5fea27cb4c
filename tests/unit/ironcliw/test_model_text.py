"""What a model's folder says about texts, and JSON files that are absent or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from ironcliw.errors import ModelLoadError
from ironcliw.json_files import optional_object, read_json, read_object
from ironcliw.model_text import chat_template, load_tokenizer, special_tokens, token_ids


def test_the_file_goes_before_the_configuration(tmp_path: Path) -> None:
    assert chat_template(tmp_path, {"chat_template": "a"}) == "a"
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    assert chat_template(tmp_path, {"chat_template": named}) == "d"
    assert chat_template(tmp_path, {}) is None
    (tmp_path / "chat_template.jinja").write_text("file")
    assert chat_template(tmp_path, {"chat_template": "a"}) == "file"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelLoadError, match=r"chat_template\.jinja cannot be read"):
        chat_template(tmp_path, {})


def test_a_template_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="chat_template is a int and must be text"):
        chat_template(tmp_path, {"chat_template": 5})


def test_special_tokens(tmp_path: Path) -> None:
    listed = '{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "other": "x"}'
    (tmp_path / "special_tokens_map.json").write_text(listed)
    found = special_tokens(tmp_path, {"eos_token": "<end>", "pad_token": None})
    assert found == {"bos_token": "<s>", "eos_token": "<end>"}


def test_token_ids(tmp_path: Path) -> None:
    first: dict[str, Any] = {"eos_token_id": None}
    assert token_ids(tmp_path, "eos_token_id", first, {"eos_token_id": [1, 2]}) == (1, 2)
    assert token_ids(tmp_path, "eos_token_id", {"eos_token_id": 3}, {"eos_token_id": 4}) == (3,)
    assert token_ids(tmp_path, "eos_token_id") == ()
    with pytest.raises(ModelLoadError, match="eos_token_id is -1 and must be a token id"):
        token_ids(tmp_path, "eos_token_id", {"eos_token_id": -1})


def test_tokenizers(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json is absent; convert"):
        load_tokenizer(file)
    file.write_text("{}")
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json is damaged"):
        load_tokenizer(file)
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(file))
    assert load_tokenizer(file).get_vocab_size() == 1


def test_json_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert optional_object(file) == {}
    with pytest.raises(ModelLoadError, match=r"a\.json is absent; copy") as caught:
        read_object(file)
    assert caught.value.code == "model_file_absent"
    file.write_text("[1]")
    assert read_json(file) == [1]
    with pytest.raises(ModelLoadError, match=r"a\.json holds a list, not an object"):
        optional_object(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ModelLoadError, match=r"a\.json is not JSON"):
        read_json(file)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_json(tmp_path)
