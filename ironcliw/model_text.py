"""The text half of a Hugging Face folder: tokenizer, chat template, special tokens.

Serving and training read it here, so that a model is trained on the tokens that it is served with.
Neither torch nor transformers is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironcliw.errors import ModelLoadError
from ironcliw.json_files import read_json

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


def load_tokenizer(file: Path) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json.

    Raises:
        ModelLoadError: the file is absent or damaged.
    """
    import tokenizers

    if not file.exists():
        raise ModelLoadError(
            f"{file} is absent; convert the tokenizer once: "
            "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception, whatever is wrong
        raise ModelLoadError(f"{file} is damaged ({error}); download it again") from error


def token_ids(folder: Path, key: str, *objects: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the first object that has the key: one id or a list of them.

    Args:
        folder: For messages.
        key: Such as `eos_token_id`.
        objects: generation_config.json and config.json, the first of them first.

    Raises:
        ModelLoadError: what stands there is no id.
    """
    value = next((o[key] for o in objects if o.get(key) is not None), ())
    ids = tuple(value) if isinstance(value, list | tuple) else (value,)
    if any(type(token) is not int or token < 0 for token in ids):
        raise ModelLoadError(
            f"{folder}: {key} is {value!r} and must be a token id or a list of them; "
            "download config.json and generation_config.json again"
        )
    return ids


def chat_template(folder: Path, tokenizer: Mapping[str, Any]) -> str | None:
    """The Jinja source that turns messages into a prompt; None: not a chat model.

    Args:
        folder: Where chat_template.jinja may be.
        tokenizer: The content of tokenizer_config.json.

    Raises:
        ModelLoadError: the file cannot be read, or what stands there is no template.
    """
    file = folder / "chat_template.jinja"
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelLoadError(f"{file} cannot be read ({error})") from error
    template = tokenizer.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if template is None or isinstance(template, str):
        return template
    raise ModelLoadError(
        f"{folder / 'tokenizer_config.json'}: chat_template is a {type(template).__name__} and "
        "must be text, or a list of named templates; download it again"
    )


def special_tokens(folder: Path, tokenizer: Mapping[str, Any]) -> dict[str, str]:
    """Texts of `bos_token`, `eos_token`, ... where defined.

    Args:
        folder: Where special_tokens_map.json may be.
        tokenizer: The content of tokenizer_config.json, which goes before it.

    Raises:
        ModelLoadError: the file is damaged.
    """
    file = folder / "special_tokens_map.json"
    listed = read_json(file) if file.exists() else {}
    merged = {**(listed if isinstance(listed, dict) else {}), **tokenizer}
    texts: dict[str, str] = {}
    for key in _SPECIAL:
        value = merged.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            texts[key] = text
    return texts
