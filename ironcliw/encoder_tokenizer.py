"""The tokenizer of an encoder's folder: serving and training read the same tokens.

Neither torch nor, for a folder with a tokenizer.json, transformers is needed.
"""

from __future__ import annotations

from typing import Any

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError
from ironcliw.model_text import load_tokenizer


def load_encoder_tokenizer(folder: EncoderFolder) -> Any:
    """The `tokenizers.Tokenizer` of an encoder, lower-casing where the model wants it.

    Args:
        folder: The model's folder, read and checked.

    Raises:
        ModelLoadError: the tokenizer is absent, damaged or unknown.
    """
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as NormalizerSequence

    file = folder.transformer / "tokenizer.json"
    tokenizer = load_tokenizer(file) if file.exists() else _convert(folder)
    if folder.lowercase:
        steps: list[Any] = [Lowercase()]
        if tokenizer.normalizer is not None:
            steps.append(tokenizer.normalizer)
        tokenizer.normalizer = NormalizerSequence(steps)
    return tokenizer


def _convert(folder: EncoderFolder) -> Any:
    """Build the fast tokenizer from an old vocabulary file, through transformers."""
    names = (
        "vocab.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
        "vocab.json",
    )
    if not any((folder.transformer / name).exists() for name in names):
        raise ModelLoadError(
            f"{folder.transformer} has no tokenizer (tokenizer.json or {', '.join(names)}); copy "
            "the whole model folder again",
            code="model_file_absent",
        )
    import tokenizers

    # imported here: it costs 100 MB, and most folders have a tokenizer.json
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(
            str(folder.transformer), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelLoadError(f"{folder.transformer}: no usable tokenizer ({error})") from error
    backend = getattr(slow, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ModelLoadError(
            f"{folder.transformer} has no fast tokenizer; save one as tokenizer.json"
        )
    return backend
