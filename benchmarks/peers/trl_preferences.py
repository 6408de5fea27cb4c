"""TRL's DPOTrainer as it comes, on pairs that are tokens already."""

from __future__ import annotations

from typing import Any

import transformers

from benchmarks.peers.plain_training import arguments, load_adapter, lora_config
from benchmarks.peers.trl_training import libraries
from benchmarks.training_contestant import Recorder
from benchmarks.training_work import BETA, Work


def train_default(work: Work, recorder: Recorder) -> None:
    """Nothing changed but the precision, the loss, and where the reference comes from."""
    trl, datasets = libraries()

    class Tokenized(trl.DPOTrainer):  # type: ignore[misc]  # the base is a variable
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            # token ids, prompts and answers are those of all contestants
            return dataset

        def training_step(self, *given: Any, **named: Any) -> Any:
            loss = super().training_step(*given, **named)
            self.last_loss = float(loss)
            return loss

    class Steps(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            margin = trainer._metrics["train"]["rewards/margins"][-1]
            recorder.step(trainer.last_loss, margin=float(margin))

    given = {
        "loss_type": [work.preference],
        "beta": BETA,
        "precompute_ref_log_probs": work.reference == "precomputed",
        "max_length": None,
    }
    trainer: Any = Tokenized(
        model=work.model,
        args=trl.DPOConfig(**arguments(work, recorder), **given),
        train_dataset=datasets.Dataset.from_list(work.pairs()),
        peft_config=lora_config(),
        callbacks=[Steps()],
    )
    load_adapter(trainer.model, work)
    trainer.train()
