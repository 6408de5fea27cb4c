"""Texts to the tokens that an embedding model is served with: window, prompt, special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.encoder_tokenizer import load_encoder_tokenizer
from ironcliw.errors import UnsupportedError
from ironcliw.json_files import optional_object
from ironcliw.settings import Settings
from train.data.options import DataOptions
from train.tokenizer import TrainingTokenizer, model_path


class EncoderTokenizer(TrainingTokenizer):
    """The tokenizer of an embedding model. Can be pickled.

    Args:
        model: Model id or path, for messages.
        tokenizer: A `tokenizers.Tokenizer`; its padding and truncation are turned off.
        window: Most tokens of a text, special ones included.
        prompt: Put before each text, as serving does where a request names none.
        cut_left: Whether a text that is too long loses its beginning, not its end.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        *,
        window: int,
        prompt: str = "",
        cut_left: bool = False,
    ) -> None:
        super().__init__(model, tokenizer, context=window)
        self._prompt = prompt
        self._direction = "left" if cut_left else "right"
        self._special = int(tokenizer.num_special_tokens_to_add(False))

    @classmethod
    def load_encoder(cls, model: str, settings: Settings) -> EncoderTokenizer:
        """Of a model.

        Args:
            model: An id of the catalogue, or a folder as sentence-transformers or transformers
                write it.
            settings: Of which the catalogue and the state directory count here.

        Raises:
            ModelNotFoundError: no such model.
            ModelLoadError: its files are absent or damaged.
            UnsupportedError: it is a GGUF file.
        """
        folder = encoder_folder(model, settings)
        config = optional_object(folder.transformer / "tokenizer_config.json")
        name = folder.default_prompt_name
        return cls(
            model,
            load_encoder_tokenizer(folder),
            window=folder.max_tokens,
            prompt="" if name is None else folder.prompts[name],
            cut_left=config.get("truncation_side") == "left",
        )

    def text_tokens(self, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        """Token ids of each text, special tokens included.

        Args:
            texts: Without the prompt.
            most: Tokens that a text is cut to, special ones included; None: it is not cut.
        """
        whole = self.encode([self._prompt + text for text in texts], special=True)
        if most is None:
            return whole
        return [
            tokens if len(tokens) <= most else self._shortened(self._prompt + text, most)
            for text, tokens in zip(texts, whole, strict=True)
        ]

    def _shortened(self, text: str, most: int) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        encoding.truncate(max(1, most - self._special), direction=self._direction)
        ids: list[int] = self._tokenizer.post_process(encoding, add_special_tokens=True).ids
        return ids


def load_tokenizer(
    model: str, settings: Settings, template: str | None = None
) -> TrainingTokenizer:
    """The tokenizer of a model of either kind.

    Args:
        model: An id of the catalogue, a folder or a GGUF file.
        settings: Of which the catalogue and the state directory count here.
        template: As `TrainingTokenizer.load` has it.

    Raises:
        IroncliwError: as `TrainingTokenizer.load` and `EncoderTokenizer.load_encoder`.
    """
    if embeds_texts(model, settings):
        return EncoderTokenizer.load_encoder(model, settings)
    return TrainingTokenizer.load(model, settings, template=template)


def embeds_texts(model: str, settings: Settings) -> bool:
    """Whether a model's folder is one of sentence-transformers.

    Args:
        model: An id of the catalogue, a folder or a GGUF file.
        settings: Of which the catalogue and the state directory count here.

    Raises:
        ModelNotFoundError: no such model.
    """
    return (model_path(model, settings) / "modules.json").is_file()


def within_window(options: DataOptions, tokenizer: TrainingTokenizer) -> DataOptions:
    """How data are read for a model: an encoder's texts have its window at most, as in serving.

    Args:
        options: As the run has them.
        tokenizer: Of the model.
    """
    window = tokenizer.context
    is_encoder = isinstance(tokenizer, EncoderTokenizer)
    if not is_encoder or window is None or options.max_length <= window:
        return options
    return options.model_copy(update={"max_length": window})


def encoder_folder(model: str, settings: Settings) -> EncoderFolder:
    """What the folder of an embedding model says.

    Args:
        model: An id of the catalogue, or a folder.
        settings: Of which the catalogue and the state directory count here.

    Raises:
        ModelNotFoundError: no such model.
        ModelLoadError: its files are absent or damaged.
        UnsupportedError: it is a GGUF file.
    """
    path = model_path(model, settings)
    if path.is_file():
        raise UnsupportedError(
            f"model {model!r} is the file {path}; embedding models are trained from a folder as "
            "sentence-transformers or transformers write it, such as all-MiniLM-L6-v2"
        )
    return EncoderFolder.read(path)
