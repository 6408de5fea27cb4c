"""A model's tokenizer for training: from folders and GGUF files, the same as in serving."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ironcliw.errors import ModelLoadError, ModelNotFoundError, SettingsError
from ironcliw.setting_sections import ModelSettings
from ironcliw.settings import Settings
from tests.unit.train.small_tokenizers import CHATML, byte_tokenizer, small
from train.tokenizer import TrainingTokenizer

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state")


def folder(path: Path, **files: Any) -> Path:
    path.mkdir()
    byte_tokenizer(begin=True).save(str(path / "tokenizer.json"))
    contents = {
        "config": {"max_position_embeddings": 64, "eos_token_id": 0},
        "generation_config": {"eos_token_id": [0, 2]},
        "tokenizer_config": {
            "eos_token": {"content": "<|im_end|>"},
            "bos_token": "<s>",
            "chat_template": "{{ bos_token }}" + CHATML,
        },
        **files,
    }
    for name, content in contents.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def load(path: Path, settings: Settings, **changes: Any) -> TrainingTokenizer:
    return TrainingTokenizer.load(str(path), settings, **changes)


class TestFolder:
    """As transformers writes it."""

    def test_facts(self, tmp_path: Path, settings: Settings) -> None:
        found = load(folder(tmp_path / "a"), settings)
        # the tokenizer's own end comes first: it ends a text
        assert (found.end_tokens, found.context, found.has_template) == ((2, 0), 64, True)
        text = found.render(USER, add_generation_prompt=True)
        assert text == "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert found.encode([text], special=False)[0][:2] == [3, 1]
        assert found.encode(["hi", ""], special=True)[1] == [3]

    def test_a_template_in_place_of_its_own(self, tmp_path: Path, settings: Settings) -> None:
        path = folder(tmp_path / "a")
        assert load(path, settings, template="x").render(USER, add_generation_prompt=False) == "x"
        file = tmp_path / "other.jinja"
        file.write_text("from a file")
        found = load(path, settings, template=str(file))
        assert found.render(USER, add_generation_prompt=False) == "from a file"
        with pytest.raises(SettingsError, match=r"absent.jinja', which cannot be read"):
            load(path, settings, template=str(tmp_path / "absent.jinja"))

    def test_a_damaged_template_is_told_at_once(self, tmp_path: Path, settings: Settings) -> None:
        with pytest.raises(ModelLoadError, match=r"the chat template of .* is damaged"):
            load(folder(tmp_path / "a"), settings, template="{% if %}")

    def test_files_that_are_absent(self, tmp_path: Path, settings: Settings) -> None:
        path = folder(tmp_path / "a")
        (path / "tokenizer.json").unlink()
        with pytest.raises(ModelLoadError, match=r"tokenizer.json is absent; convert"):
            load(path, settings)

    def test_of_the_catalogue(self, tmp_path: Path, settings: Settings) -> None:
        source = f"dir:{folder(tmp_path / 'a')}"
        models = {"mine": ModelSettings(source=source, task="generation")}
        known = settings.model_copy(update={"models": models})
        assert TrainingTokenizer.load("mine", known).context == 64
        with pytest.raises(ModelNotFoundError, match=r"no model 'yours'; known models: .*mine"):
            TrainingTokenizer.load("yours", known)


def test_a_gguf_file_is_what_serving_reads(settings: Settings) -> None:
    from ironcliw.catalog import Catalog
    from serve.generation.text import load_text_side

    found = TrainingTokenizer.load("SmolLM2-135M-Instruct", settings)
    served = load_text_side(Catalog()["SmolLM2-135M-Instruct"], settings.state_dir)
    assert (found.context, frozenset(found.end_tokens)) == (served.context, served.end_tokens)
    text = served.render(USER)
    assert found.render(USER, add_generation_prompt=True) == text
    assert found.encode([text], special=False)[0] == served.encode(text, special=False).tolist()


def test_the_day_does_not_change_the_tokens() -> None:
    found = small("{{ strftime_now('%Y-%m-%d') }}").render(USER, add_generation_prompt=False)
    assert found == "2024-07-26"
    assert found != f"{datetime.now():%Y-%m-%d}"


def test_a_pickled_one_is_the_same() -> None:
    tokenizer = small()
    before = tokenizer.render(USER, add_generation_prompt=True)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.render(USER, add_generation_prompt=True) == before
    assert copy.digest == tokenizer.digest


def test_what_counts_for_the_digest() -> None:
    others = [
        small(),
        small(None),
        small(merges=(("a", "b"),)),
        small(end_tokens=(2,)),
        small(begin=True),
    ]
    assert len({one.digest for one in others}) == len(others)
    assert small().digest == others[0].digest


def test_pieces_join_to_the_text() -> None:
    tokenizer = small(merges=(("a", "b"),))
    [tokens] = tokenizer.encode(["ab\u20acc<|im_end|>\U0001f600"], special=False)
    pieces = tokenizer.pieces(tokens)
    assert pieces == ["ab", "", "", "\u20ac", "c", "<|im_end|>", "", "", "", "\U0001f600"]
    # cut in the middle of a character
    assert "".join(tokenizer.pieces(tokens[:2])) == "ab\ufffd"
    assert tokenizer.text(tokens) == "".join(pieces)


def test_pieces_of_a_long_row() -> None:
    tokenizer = small()
    text = "a\u20ac b\U0001f600<|im_end|>" * 60
    [tokens] = tokenizer.encode([text], special=False)
    assert "".join(tokenizer.pieces(tokens)) == tokenizer.text(tokens) == text


def test_pieces_of_a_decoder_that_drops_the_first_space() -> None:
    vocab = {"\u2581a": 0, "\u2581b": 1}
    words = Tokenizer(models.WordLevel(vocab, unk_token="\u2581a"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    tokenizer = TrainingTokenizer("words", words)
    [tokens] = tokenizer.encode(["a b " * 200], special=False)
    assert tokenizer.pieces(tokens)[:400] == ["a", " b", *[" a", " b"] * 199]


def test_pieces_take_time_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small()
    decoded = 0
    whole = tokenizer.text

    def counted(tokens: Any) -> str:
        nonlocal decoded
        decoded += len(tokens)
        return whole(tokens)

    monkeypatch.setattr(tokenizer, "text", counted)
    [euro] = tokenizer.encode(["\u20ac"], special=False)
    # also of bytes that are never whole characters
    for token in (70, euro[0]):
        decoded = 0
        tokenizer.pieces([token] * 2000)
        assert 0 < decoded < 2000 * 70


def test_the_same_for_transformers() -> None:
    tokenizer = small()
    made = tokenizer.transformers()
    text = tokenizer.render(USER, add_generation_prompt=True)
    assert made.apply_chat_template(USER, add_generation_prompt=True, tokenize=False) == text
    assert made(text).input_ids == tokenizer.encode([text], special=False)[0]


def test_neither_torch_nor_transformers_nor_ray_is_imported() -> None:
    code = (
        "import sys\n"
        "import train.commands, train.data.read, train.data.plan, train.data.check\n"
        "print(sorted({'torch', 'transformers', 'ray', 'pyarrow'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
