"""The tokenizer that a GGUF file's metadata describes, as a `tokenizers.Tokenizer`.

Covered are byte-level BPE ("gpt2") with the pre-tokenizers named below and SentencePiece BPE
("llama"); the ids are llama.cpp's. Source: llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from ironcliw.errors import ModelLoadError
from native_ops.gguf import GgufFile

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
"""Token types other than the normal 1: enum llama_token_type."""

_SPACE = "\u2581"
"""How SentencePiece writes a space."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

_PRE_TOKENIZERS = {
    "gpt-2": "gpt-2",
    "default": "gpt-2",
    "smollm": "digits",
    "starcoder": "digits",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
}
"""tokenizer.ggml.pre to the way of splitting; older files, which lack the key, are GPT-2's."""


_ROLE_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}


def gguf_tokenizer(file: GgufFile) -> Tokenizer:
    """The file's tokenizer, with its special tokens and, where it asks for them, BOS and EOS.

    Raises:
        ModelLoadError: the metadata lacks a part, contradicts itself, or names a kind of tokenizer
            that is not supported.
    """
    kind = file.text("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(file)
    elif kind == "llama":
        tokenizer = _sentencepiece(file)
    else:
        raise ModelLoadError(
            f"{file.path}: tokenizer.ggml.model is {kind!r}; supported are gpt2 (byte-level BPE) "
            "and llama (SentencePiece BPE): use the model's Hugging Face folder instead"
        )
    _add_special_tokens(tokenizer, file)
    _add_framing(tokenizer, file)
    return tokenizer


def special_ids(file: GgufFile) -> dict[str, int]:
    """The ids that the file names, by role: bos, eos, eot, eom, unk, pad; absent ones are left out.

    Raises:
        ModelLoadError: an id is not one of the vocabulary.
    """
    size = len(file.texts("tokenizer.ggml.tokens"))
    ids: dict[str, int] = {}
    for role, key in _ROLE_KEYS.items():
        if key not in file.metadata:
            continue
        ids[role] = file.integer(key)
        if not 0 <= ids[role] < size:
            raise ModelLoadError(
                f"{file.path}: {key} is {ids[role]}, the vocabulary has {size} tokens; download "
                "it again"
            )
    return ids


def adds_bos(file: GgufFile) -> bool:
    """Whether a text starts with the BOS token unless the caller says otherwise."""
    # what llama.cpp takes where the file does not say
    default = file.text("tokenizer.ggml.model") == "llama" or _splitting(file) == "llama3"
    return file.flag("tokenizer.ggml.add_bos_token", default)


def control_tokens(file: GgufFile) -> dict[str, int]:
    """Tokens that steer the model and never stand for text, with their ids."""
    return _of_type(file, _CONTROL)


def _splitting(file: GgufFile) -> str:
    name = file.text("tokenizer.ggml.pre", "default")
    if name not in _PRE_TOKENIZERS:
        raise ModelLoadError(
            f"{file.path}: tokenizer.ggml.pre is {name!r}; supported are "
            f"{', '.join(sorted(_PRE_TOKENIZERS))}: use the model's Hugging Face folder instead"
        )
    return _PRE_TOKENIZERS[name]


def _pre_tokenizer(splitting: str) -> PreTokenizer:
    if splitting == "gpt-2":
        return ByteLevel(add_prefix_space=False, use_regex=True)
    if splitting == "digits":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    pattern = Regex(_LLAMA3 if splitting == "llama3" else _QWEN2)
    return Sequence(
        [Split(pattern, "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _byte_level(file: GgufFile) -> Tokenizer:
    splitting = _splitting(file)
    vocab = _vocabulary(file)
    merges = [_merge(file, merge, vocab) for merge in file.texts("tokenizer.ggml.merges")]
    # Llama 3 looks a whole word up before it merges: its vocabulary has words no merge reaches
    model = models.BPE(vocab=vocab, merges=merges, ignore_merges=splitting == "llama3")
    tokenizer = Tokenizer(model)
    if splitting == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(splitting)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merge(file: GgufFile, merge: str, vocab: dict[str, int]) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if left in vocab and right in vocab and left + right in vocab:
        return left, right
    raise ModelLoadError(
        f"{file.path}: tokenizer.ggml.merges has {merge!r:.60}, whose parts or whole are not in "
        "the vocabulary; download it again"
    )


def _sentencepiece(file: GgufFile) -> Tokenizer:
    vocab = _vocabulary(file)
    unknown = special_ids(file).get("unk", 0)
    tokens = file.texts("tokenizer.ggml.tokens")
    model = models.BPE(
        vocab=vocab,
        merges=_merges_by_score(file, vocab),
        unk_token=tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefix = file.flag("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    # before the text and, as llama.cpp does, after each special token in it
    steps = [normalizers.Prepend(_SPACE), spaces] if prefix else [spaces]
    tokenizer.normalizer = normalizers.Sequence(steps)
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return tokenizer


def _merges_by_score(file: GgufFile, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece joins the neighbours whose whole has the best score: a merge for each split."""
    scores = file.numbers("tokenizer.ggml.scores")
    types = _types(file)
    if len(scores) != len(types) or not np.isfinite(scores).all():
        raise ModelLoadError(
            f"{file.path}: tokenizer.ggml.scores has {len(scores)} scores for {len(types)} tokens, "
            "each of which needs a finite one; download it again"
        )
    found: list[tuple[float, int, tuple[str, str]]] = []
    for token, number in vocab.items():
        if types[number] in (_UNKNOWN, _CONTROL, _BYTE):
            continue
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        score = -float(scores[number])
        found += [(score, number, pair) for pair in splits if pair[0] in vocab and pair[1] in vocab]
    return [pair for _, _, pair in sorted(found)]


def _vocabulary(file: GgufFile) -> dict[str, int]:
    tokens = file.texts("tokenizer.ggml.tokens")
    vocab = {token: number for number, token in enumerate(tokens)}
    if not tokens or len(vocab) != len(tokens) or "" in vocab:
        raise ModelLoadError(
            f"{file.path}: tokenizer.ggml.tokens has {len(tokens)} tokens, {len(vocab)} of them "
            "different; each must be, and none empty: download it again"
        )
    return vocab


def _types(file: GgufFile) -> list[int]:
    tokens = len(file.texts("tokenizer.ggml.tokens"))
    if "tokenizer.ggml.token_type" not in file.metadata:
        return [1] * tokens
    types: list[int] = file.numbers("tokenizer.ggml.token_type").tolist()
    if len(types) != tokens:
        raise ModelLoadError(
            f"{file.path}: tokenizer.ggml.token_type has {len(types)} types for {tokens} tokens; "
            "download it again"
        )
    return types


def _of_type(file: GgufFile, wanted: int) -> dict[str, int]:
    tokens, types = file.texts("tokenizer.ggml.tokens"), _types(file)
    return {tokens[number]: number for number, kind in enumerate(types) if kind == wanted}


def _add_special_tokens(tokenizer: Tokenizer, file: GgufFile) -> None:
    """Control tokens vanish from decoded text, user-defined ones stay; both are found whole."""
    control = _of_type(file, _CONTROL)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    user = _of_type(file, _USER_DEFINED)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in user])


def _add_framing(tokenizer: Tokenizer, file: GgufFile) -> None:
    ids, tokens = special_ids(file), file.texts("tokenizer.ggml.tokens")
    frame = []
    if adds_bos(file) and "bos" in ids:
        frame.append(("bos", tokens[ids["bos"]]))
    if file.flag("tokenizer.ggml.add_eos_token", False) and "eos" in ids:
        frame.append(("eos", tokens[ids["eos"]]))
    single = [text for role, text in frame if role == "bos"] + ["$A"]
    single += [text for role, text in frame if role == "eos"]
    if frame:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(text, ids[role]) for role, text in frame]
        )
