"""transformers' own Trainer with peft's LoRA: logits of all positions, cross-entropy of the model.

As the documentation of both shows it. What differs from a first script is what makes the work that
of the others: order, first weights, and a constant learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file

from benchmarks.training_contestant import Recorder
from benchmarks.training_work import ALPHA, CLIP_NORM, LEARNING_RATE, RANK, SEED, Work

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def train(work: Work, recorder: Recorder) -> None:
    """The steps; weights in the work's precision, adapters in float32."""
    loader: Any = transformers.AutoModelForCausalLM
    base = loader.from_pretrained(work.model, dtype=DTYPES[work.precision])
    model = peft.get_peft_model(base, lora_config())
    load_adapter(model, work)
    tokenizer = transformers.AutoTokenizer.from_pretrained(work.model)
    trainer: Any = noting(transformers.Trainer, recorder)(
        model=model,
        args=transformers.TrainingArguments(**arguments(work, recorder)),
        train_dataset=work.rows(),
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer),
        callbacks=[],
    )
    trainer.train()


def lora_config() -> peft.LoraConfig:
    """Adapters on all linear layers but the head."""
    return peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def arguments(work: Work, recorder: Recorder) -> dict[str, Any]:
    """What the trainers of transformers are told, TRL's included."""
    return {
        "output_dir": str(recorder.folder),
        "max_steps": work.steps,
        "per_device_train_batch_size": work.batch_size,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": CLIP_NORM,
        "bf16": work.precision == "bf16",
        "train_sampling_strategy": "sequential",
        "seed": SEED,
        "use_cpu": True,
        # nothing is written on the way
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def load_adapter(model: torch.nn.Module, work: Work) -> None:
    """Begin with the weights that all contestants begin with."""
    given = load_file(work.adapter)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert trained.keys() == given.keys()
    with torch.no_grad():
        for name, each in trained.items():
            each.copy_(given[name])


def noting(trainer: type[Any], recorder: Recorder) -> type[Any]:
    """A kind of trainer that tells of its steps."""

    class Noting(trainer):  # type: ignore[misc]  # the base is a variable
        def __init__(self, *given: Any, callbacks: Sequence[Any] = (), **named: Any) -> None:
            self.parts: list[torch.Tensor] = []
            super().__init__(*given, callbacks=[*callbacks, _Steps(self.parts, recorder)], **named)

        def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*given, **named)
            self.parts.append(loss)
            return loss

    return Noting


class _Steps(transformers.TrainerCallback):
    def __init__(self, parts: list[torch.Tensor], recorder: Recorder) -> None:
        self._parts = parts
        self._recorder = recorder

    def on_step_end(self, *_: Any, **__: Any) -> None:
        # the parts of a batch are each divided by the tokens of the whole of it
        self._recorder.step(float(sum(float(part) for part in self._parts)))
        self._parts.clear()
