"""A finished run's adapter merged into its base: a model of its own, for what is not served beside
others, such as DoRA, and for other programs."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from ironcliw.errors import SettingsError
from ironcliw.settings import Settings
from train.model.load import model_folder
from train.publish import check_weights, finished_adapter
from train.run_files import ADAPTER, RunFiles
from train.tokenizer import TrainingTokenizer

logger = logging.getLogger(__name__)


def merge_run(uri: str, target: Path, settings: Settings) -> Path:
    """Write the merged model in Hugging Face's format, with its tokenizer.

    It is added up in float32 and rounded once, to the precision of the base's files. Where the base
    was packed for the training (nf4), the adapter is added to the weights that were not: the merged
    model is not quite the one that was trained.

    Args:
        uri: Of the run's folder.
        target: Folder that is not there yet, or is empty.
        settings: Of the head: its catalogue.

    Returns:
        The folder.

    Raises:
        SettingsError: the run is not there or not finished, it trained no adapter, or the folder
            holds something.
        TrainingError: the base is not the one that it was trained on.
        IroncliwError: the base or the adapter cannot be read.
    """
    target = target.expanduser().absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise SettingsError(f"{target} holds something already; name a folder that is not there")
    outcome, config = finished_adapter(uri)
    base = str(config["model_name"])
    check_weights(base, outcome, settings, settings.state_dir / "models" / "index")
    if config.get("quantization"):
        logger.warning(
            "%s was trained beside weights packed as %s, and is merged into unpacked ones: measure "
            "the merged model again",
            uri,
            config["quantization"],
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        adapter, made = Path(temporary) / "adapter", Path(temporary) / "model"
        adapter.mkdir()
        RunFiles(uri).download(ADAPTER, adapter)
        _merged(model_folder(base, settings), adapter).save_pretrained(made)
        TrainingTokenizer.load(base, settings).transformers().save_pretrained(made)
        made.replace(target)
    return target


def _merged(base: Path, adapter: Path) -> Any:
    import peft
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    model = loader.from_pretrained(base, dtype=torch.float32)
    kept = transformers.AutoConfig.from_pretrained(base).dtype
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name
        warnings.simplefilter("ignore", FutureWarning)
        whole: Any = peft.PeftModel.from_pretrained(model, str(adapter))
    # safe: an adapter with a number that is none is refused
    return whole.merge_and_unload(safe_merge=True).to(kept or torch.float32)
