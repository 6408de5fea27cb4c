"""The text side of a model: tokenizer and facts, from a fake, a folder and a GGUF file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import ModelLoadError, RequestError, RequestTooLargeError
from ironcliw.setting_sections import ModelSettings
from serve.engines.decoders.fake import END, START, fake_tokenizer
from serve.generation.text import TextSide, load_text_side

USER = [{"role": "user", "content": "hi"}]


def card(source: str, task: str = "generation") -> ModelCard:
    return Catalog({"m": ModelSettings(source=source, task=task)})["m"]


@pytest.fixture
def fake(tmp_path: Path) -> TextSide:
    return load_text_side(card("fake:300?context=64"), tmp_path)


class TestFake:
    def test_facts(self, fake: TextSide) -> None:
        assert (fake.context, fake.vocabulary, sorted(fake.end_tokens)) == (64, 300, [END])
        assert fake.seq2seq is False

    def test_bytes_are_tokens(self, fake: TextSide) -> None:
        tokens = fake.encode("h\u00e9<|im_start|>")
        assert tokens.tolist() == [104, 195, 169, START]
        assert tokens.dtype == np.int32
        assert fake.decode(tokens.tolist()) == "h\u00e9"
        assert [fake.token_bytes(t) for t in (104, 195, START, 299)] == [
            b"h",
            b"\xc3",
            b"<|im_start|>",
            b"",
        ]

    def test_a_conversation_has_its_special_tokens_once(self, fake: TextSide) -> None:
        text = fake.render(USER)
        assert text == "<|im_start|>user\nhi<|end|>\n<|im_start|>assistant\n"
        assert fake.encode(text, special=False).tolist().count(START) == 2

    def test_token_ids_of_the_client_are_checked(self, fake: TextSide) -> None:
        assert fake.check([0, 299]).tolist() == [0, 299]
        for wrong in (-1, 300, 10**30):
            with pytest.raises(RequestError, match="integers from 0 to 299"):
                fake.check([5, wrong])

    def test_following_wants_one_token(self, fake: TextSide) -> None:
        assert fake.following("a", ["b", "c"], special=True) == (98, 99)
        with pytest.raises(RequestError, match="'bc' after the prompt is not one token of m"):
            fake.following("a", ["b", "bc"], special=True)

    def test_a_text_without_end(self, fake: TextSide) -> None:
        with pytest.raises(RequestTooLargeError, match="1000001 characters"):
            fake.encode("a" * 1_000_001)


def folder(path: Path, **files: Any) -> Path:
    """A folder of a tiny model whose tokenizer puts <s> before a text."""
    path.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "hi": 2, "[": 3}, unk_token="["))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.enable_truncation(2)
    tokenizer.save(str(path / "tokenizer.json"))
    save_file({"w": np.zeros(1, np.float32)}, path / "model.safetensors")
    contents = {
        "config": {"model_type": "llama", "max_position_embeddings": 32, "vocab_size": 8},
        "generation_config": {"eos_token_id": [1, 3], "do_sample": True, "temperature": 0.6},
        "tokenizer_config": {
            "bos_token": {"content": "<s>"},
            "chat_template": "{{ bos_token }}{% for m in messages %} {{ m.content }}{% endfor %}",
        },
        **files,
    }
    for name, content in contents.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


class TestFolder:
    def test_facts_tokenizer_and_template(self, tmp_path: Path) -> None:
        text = load_text_side(card(f"dir:{folder(tmp_path / 'a')}"), tmp_path)
        assert (text.context, text.vocabulary, sorted(text.end_tokens)) == (32, 8, [1, 3])
        assert text.defaults == {"temperature": 0.6}
        # the file's truncation is not ours
        assert text.encode("hi hi hi").tolist() == [0, 2, 2, 2]
        assert text.encode(text.render(USER), special=False).tolist() == [0, 2]

    def test_values_for_drawing_need_do_sample(self, tmp_path: Path) -> None:
        config = {"eos_token_id": 1, "temperature": 0.6, "repetition_penalty": 1.3}
        path = folder(tmp_path / "a", generation_config=config)
        assert load_text_side(card(f"dir:{path}"), tmp_path).defaults == {"repetition_penalty": 1.3}

    def test_a_value_that_cannot_be(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "a", generation_config={"do_sample": True, "top_p": 7.0})
        with pytest.raises(ModelLoadError, match=r"top_p is 7.0 and must be from"):
            load_text_side(card(f"dir:{path}"), tmp_path)

    def test_without_a_template_there_is_no_chat(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "a", tokenizer_config={})
        text = load_text_side(card(f"dir:{path}"), tmp_path)
        with pytest.raises(RequestError, match=r"no chat template.*use /v1/completions"):
            text.render(USER)

    def test_a_damaged_template_leaves_completions_alive(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "a", tokenizer_config={"chat_template": "{% if %}"})
        text = load_text_side(card(f"dir:{path}"), tmp_path)
        assert text.encode("hi").tolist() == [0, 2]
        with pytest.raises(ModelLoadError, match="the chat template of m is damaged"):
            text.render(USER)

    def test_an_absent_and_a_damaged_tokenizer(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "a")
        (path / "tokenizer.json").write_text("{")
        with pytest.raises(ModelLoadError, match=r"tokenizer.json is damaged"):
            load_text_side(card(f"dir:{path}"), tmp_path)
        (path / "tokenizer.json").unlink()
        with pytest.raises(ModelLoadError, match=r"tokenizer.json is absent; convert"):
            load_text_side(card(f"dir:{path}"), tmp_path)


def test_byte_fallback_tokens_and_spaces() -> None:
    tokenizer = Tokenizer(
        models.BPE(vocab={"<unk>": 0, "<0x0A>": 1, "\u2581hi": 2}, merges=[], unk_token="<unk>")
    )
    text = TextSide("m", tokenizer, 8, 3, ())
    assert [text.token_bytes(token) for token in (1, 2)] == [b"\n", b" hi"]


def test_bytes_of_every_token_of_a_byte_level_tokenizer() -> None:
    text = TextSide("m", fake_tokenizer(), 8, 258, ())
    assert [text.token_bytes(token) for token in range(256)] == [bytes([b]) for b in range(256)]


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from serve.generation import service\n"
        "from ironcliw.catalog import Catalog\n"
        "from ironcliw.setting_sections import ModelSettings\n"
        "from serve.generation.text import load_text_side\n"
        "card = Catalog({'m': ModelSettings(source='fake:300', task='generation')})['m']\n"
        "load_text_side(card, Path('.'))\n"
        "print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
