"""Vectors of texts by an embedding model, as it is served."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ironcliw.file_digests import weights_digest
from ironcliw.settings import Settings
from train.config import make_config
from train.embedding.load import load_encoder
from train.embedding.objective import in_chunks
from train.embedding.tokenizer import EncoderTokenizer, encoder_folder
from train.model.load import choose_device

_TOKENS = 4096


class TextVectors:
    """Texts to vectors of length 1.

    Args:
        model: An id of the catalogue, or a folder.
        settings: Of which the catalogue and the state directory count here.

    Attributes:
        digest: Of the model's weights.

    Raises:
        ModelNotFoundError: no such model.
        ModelLoadError: its files are absent or damaged.
        UnsupportedError: it is no encoder that is trained here.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        folder = encoder_folder(model, settings)
        self._tokenizer = EncoderTokenizer.load_encoder(model, settings)
        self._window = folder.max_tokens
        config = make_config({"model_name": model, "use_lora": False, "embedding": {}}, "a head")
        self.digest = weights_digest(folder.path, settings.state_dir / "models" / "index")
        self._encoder = load_encoder(config, folder, self.digest, torch.float32, choose_device())
        self._encoder.eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [N, D]; longer texts are cut to the model's window."""
        tokens = [
            np.array(each, np.int32) for each in self._tokenizer.text_tokens(texts, self._window)
        ]
        parts = [self._encoder(chunk) for chunk in in_chunks(tokens, _TOKENS)]
        unit: npt.NDArray[np.float32] = F.normalize(torch.cat(parts), dim=1).cpu().numpy()
        return unit
