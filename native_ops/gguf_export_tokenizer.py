"""The tokenizer of a Hugging Face folder as metadata of a GGUF file: `gguf_tokenizer`, reversed.

What tokenizer.json says about splitting a text is code; a GGUF file has a name for it. The name is
found by trial: each that the reader knows is asked for the tokens of some texts, and the first that
gives those of the folder's own tokenizer is written. Where none does, nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ironcliw.errors import ModelLoadError, UnsupportedError
from ironcliw.json_files import optional_object
from ironcliw.model_text import chat_template, load_tokenizer, special_tokens, token_ids
from native_ops.gguf import GgufFile
from native_ops.gguf_text import END_TEXTS
from native_ops.gguf_tokenizer import gguf_tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
"""enum llama_token_type."""
_SPLITTINGS = ("smollm", "gpt-2", "llama-bpe", "qwen2")
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}

PROBES = (
    "Hello, World! 1234567 12.5% don't we'LL  see?\n\n\tdef f(x): return x**2  # tabs\r\n",
    "na\u00efve caf\u00e9 cafe\u0301 \u4f60\u597d\uff0c\u4e16\u754c \u041c\u0438\u0440",
    "\U0001f642\U0001f469\u200d\U0001f4bb \u0661\u0662\u0663",
    " leading and trailing  ",
    "snake_case CamelCase HTTP/2 http://x.y/z?a=1&b=2 \u00a0\u2003end...?!--==<<>>[]{}",
    "a",
    "",
)
"""Texts that the known ways of splitting tell apart."""


def tokenizer_metadata(folder: Path, embeddings: int) -> dict[str, Any]:
    """Keys that say what the model's tokens are, and how messages become a prompt.

    Args:
        folder: With tokenizer.json.
        embeddings: Rows of the embedding; those without a token are named as unused.

    Raises:
        ModelLoadError: files are absent or damaged, or there are more tokens than embeddings.
        UnsupportedError: a GGUF file has no name for what the tokenizer does.
    """
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    described = json.loads(tokenizer.to_str())
    if described["model"].get("type") != "BPE":
        raise _unsupported(folder, f"its model is {described['model'].get('type')}, not BPE")
    if not described["model"]["merges"]:
        raise _unsupported(folder, "it merges nothing")
    texts, types = _tokens(folder, tokenizer, described, embeddings)
    common: dict[str, Any] = {
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        **_special(folder, tokenizer, texts, types),
        **_framing(folder, tokenizer),
    }
    template = chat_template(folder, optional_object(folder / "tokenizer_config.json"))
    if template is not None:
        common["tokenizer.chat_template"] = template
    for candidate in _candidates(described, texts):
        whole = common | candidate
        if _reads_alike(folder, whole, tokenizer):
            return whole
    raise _unsupported(folder, "it splits texts in a way that none of the known ones is")


def _tokens(
    folder: Path, tokenizer: Any, described: Mapping[str, Any], embeddings: int
) -> tuple[list[str], list[int]]:
    """Text and type of each id."""
    found = {number: text for text, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    if max(found, default=-1) >= embeddings:
        raise ModelLoadError(
            f"{folder}: the tokenizer has ids up to {max(found)}, and the model {embeddings} "
            "embeddings; put the tokenizer's files of this model there"
        )
    added = {each["id"]: each for each in described["added_tokens"]}
    has_bytes = bool(described["model"].get("byte_fallback"))
    unknown = described["model"].get("unk_token")
    texts, types = [], []
    for number in range(embeddings):
        text = found.get(number)
        if text is None:
            texts.append(f"[PAD{number}]")
            types.append(_UNUSED)
            continue
        texts.append(text)
        if has_bytes and text == unknown:
            types.append(_UNKNOWN)
        elif number in added:
            types.append(_CONTROL if added[number]["special"] else _USER_DEFINED)
        else:
            is_byte = has_bytes and len(text) == 6 and text.startswith("<0x") and text[-1] == ">"
            types.append(_BYTE if is_byte else _NORMAL)
    return texts, types


def _special(folder: Path, tokenizer: Any, texts: list[str], types: list[int]) -> dict[str, Any]:
    """Ids by role, with other tokens that end an answer."""
    named = special_tokens(folder, optional_object(folder / "tokenizer_config.json"))
    ids: dict[str, Any] = {}
    for role, key in _ROLES.items():
        number = tokenizer.token_to_id(named.get(f"{role}_token", ""))
        if number is not None:
            ids[f"tokenizer.ggml.{key}_token_id"] = number
    generation = optional_object(folder / "generation_config.json")
    config = optional_object(folder / "config.json")
    ends = list(token_ids(folder, "eos_token_id", generation, config))
    if ends and "tokenizer.ggml.eos_token_id" not in ids:
        ids["tokenizer.ggml.eos_token_id"] = ends[0]
    # the reader ends an answer at these without being told
    rest = [
        end
        for end in ends
        if end != ids["tokenizer.ggml.eos_token_id"]
        and not (end < len(texts) and texts[end] in END_TEXTS and types[end] == _CONTROL)
    ]
    if len(rest) > 2:
        raise _unsupported(folder, f"{len(ends)} tokens end an answer, more than have a role")
    return ids | dict(
        zip(("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"), rest, strict=False)
    )


def _framing(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Whether a text begins with BOS and ends with EOS."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    framed = tokenizer.encode("a", add_special_tokens=True).ids
    at = next((n for n in range(len(framed)) if framed[n : n + len(bare)] == bare), None)
    before, after = (framed, []) if at is None else (framed[:at], framed[at + len(bare) :])
    if at is None or len(before) > 1 or len(after) > 1:
        raise _unsupported(folder, f"it puts {len(framed) - len(bare)} tokens around a text")
    return {
        "tokenizer.ggml.add_bos_token": bool(before),
        "tokenizer.ggml.add_eos_token": bool(after),
    }


def _candidates(described: Mapping[str, Any], texts: list[str]) -> Iterator[dict[str, Any]]:
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in described["model"]["merges"]
    ]
    if not described["model"].get("byte_fallback"):
        for name in _SPLITTINGS:
            yield {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": name,
                "tokenizer.ggml.merges": merges,
            }
        return
    scores = _scores(merges, texts)
    for prefix in (True, False):
        yield {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.add_space_prefix": prefix,
        }


def _scores(merges: list[str], texts: list[str]) -> Any:
    """SentencePiece's scores: what is joined earlier has the higher one."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return np.array([-float(ranks.get(text, len(merges))) for text in texts], np.float32)


def _reads_alike(folder: Path, metadata: Mapping[str, Any], tokenizer: Any) -> bool:
    """Whether what the reader makes of the metadata gives the folder's tokens."""
    try:
        made = gguf_tokenizer(GgufFile(folder, metadata, {}, np.empty(0, np.uint8)))
    except ModelLoadError:
        return False
    types = metadata["tokenizer.ggml.token_type"]
    control = [metadata["tokenizer.ggml.tokens"][at] for at in np.flatnonzero(types == _CONTROL)]
    inside = "".join(f"{text}x 12\n" for text in control[:8])
    return all(
        made.encode(text, add_special_tokens=framed).ids
        == tokenizer.encode(text, add_special_tokens=framed).ids
        for text in (*PROBES, inside)
        for framed in (False, True)
    )


def _unsupported(folder: Path, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{folder / 'tokenizer.json'}: {why}, and a GGUF file has no name for it; export the model "
        "with --format safetensors"
    )
