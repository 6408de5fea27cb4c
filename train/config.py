"""What a run of training is told: one form for the YAML file, the command line and Python.

Every key has a default but the model and the data. What changes the numbers of a run is part of its
fingerprint (`numbers`); what only says where it runs or how often it saves is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ironcliw.adapters import check_name
from ironcliw.errors import RequestError
from train.checkpoint.options import CheckpointOptions
from train.config_file import read_mapping, validated
from train.data.options import DataOptions
from train.embedding.options import EmbeddingOptions
from train.evaluation.options import EMBEDDING_MEASURES, EvaluationOptions
from train.preference.options import PreferenceOptions
from train.quantization import Quantization
from train.sharding.options import ShardingOptions

Method = Literal["lora", "qlora", "full"]
Precision = Literal["auto", "bf16", "fp32"]
Schedule = Literal["cosine", "linear", "constant"]
# keys that say where and how often, and never what is computed
_NOT_NUMBERS = frozenset(
    {"name", "workers", "checkpoint", "evaluation", "placement", "allow_local", "max_failures"}
    | {"publish"}
)


class TrainingConfig(BaseModel):
    """A run of supervised fine-tuning.

    `TrainingConfig(model_name="SmolLM2-135M-Instruct", use_lora=True, lora_rank=16, num_epochs=3)`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    name: str = Field(
        "",
        pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="The run's name: the same one again resumes it; empty: from model and data.",
    )
    model_name: str = Field(min_length=1, description="Catalogue id, folder or GGUF file.")
    data: DataOptions = Field(default_factory=DataOptions)
    checkpoint: CheckpointOptions = Field(default_factory=CheckpointOptions)
    evaluation: EvaluationOptions = Field(default_factory=EvaluationOptions)
    preference: PreferenceOptions | None = Field(
        None, description="Train on preferences (DPO), not on answers to be imitated."
    )
    embedding: EmbeddingOptions | None = Field(
        None, description="Train an embedding model on texts that belong together."
    )

    use_lora: bool = Field(True, description="Train adapters, not the model's own weights.")
    quantization: Quantization | None = Field(
        None,
        description="How the frozen weights are held: nf4 makes LoRA QLoRA; nf4_bitsandbytes is "
        "the same by that library's kernels, on CUDA alone.",
    )
    lora_rank: int = Field(16, ge=1, le=1024)
    lora_alpha: float = Field(32.0, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_targets: tuple[str, ...] | Literal["all-linear"] = Field(
        "all-linear", description="Names of the layers that get an adapter."
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) (arXiv 2312.03732).")
    use_dora: bool = Field(False, description="Train magnitudes apart (arXiv 2402.09353).")

    num_epochs: int = Field(3, ge=1)
    max_steps: int | None = Field(None, ge=1, description="End after so many steps at most.")
    batch_size: int = Field(16, ge=1, description="Rows of one optimizer step, over all workers.")
    micro_batch_tokens: int = Field(
        2048, ge=16, description="Tokens computed at a time; less needs less memory."
    )
    shards: int = Field(
        1, ge=1, le=256, description="Parts of a batch; any number of workers up to it is the same."
    )
    workers: int = Field(1, ge=1, le=256, description="Processes, each on a node of its own.")
    sharding: ShardingOptions = Field(
        default_factory=ShardingOptions,
        description="Spread the model over the workers, where it does not fit one.",
    )
    precision: Precision = "auto"
    gradient_checkpointing: bool = Field(
        False, description="Compute layers twice, and keep only their inputs."
    )

    learning_rate: float = Field(2e-4, gt=0, lt=10)
    schedule: Schedule = "cosine"
    warmup_steps: int | None = Field(None, ge=0, description="None: `warmup_share` of all.")
    warmup_share: float = Field(0.03, ge=0, lt=1)
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(1.0, gt=0, description="Largest norm of the gradient.")

    seed: int = Field(0, ge=0, lt=2**63)
    allow_inexact: bool = Field(
        False, description="Resume where the numbers cannot be the same, and say so in the log."
    )
    publish: str | None = Field(
        None,
        description="Name to publish the adapter under, if it is not worse than its base on the "
        "held-out rows (evaluation.gate).",
    )
    placement: Literal["auto", "local", "spot"] = "auto"
    allow_local: bool = Field(False, description="Train on a machine that is kept for inference.")
    max_failures: int = Field(
        20, ge=-1, description="Unannounced deaths of workers that a run survives; -1: any number."
    )

    @field_validator("publish")
    @classmethod
    def _check_publish(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                check_name(value)
            except RequestError as error:
                raise ValueError(error.message) from error
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.workers > self.shards:
            raise ValueError(
                f"workers is {self.workers} and shards is {self.shards}: a worker computes one "
                "shard at least; raise shards"
            )
        if self.shards > self.batch_size:
            raise ValueError(
                f"shards is {self.shards} and batch_size {self.batch_size}: a shard has one row at "
                "least; lower shards or raise batch_size"
            )
        if self.quantization and not self.use_lora:
            raise ValueError(
                "quantization is set and use_lora is false: quantised weights cannot be trained"
            )
        if self.precision == "bf16" and not self.use_lora:
            raise ValueError(
                "precision is 'bf16' and use_lora is false: all weights are trained in float32; "
                "set precision to 'fp32' or 'auto'"
            )
        if self.publish is not None and not self.use_lora:
            raise ValueError(
                f"publish is {self.publish!r} and use_lora is false: adapters alone are published"
            )
        if self.publish is not None and self.use_dora:
            raise ValueError(
                f"publish is {self.publish!r} and use_dora is true: DoRA is not served beside "
                "other adapters; train without publish, and then `ironcliw train merge`"
            )
        if self.preference is not None:
            self._fits_preferences(self.preference)
        elif self.evaluation.gate == "preference_accuracy":
            raise ValueError(
                "evaluation.gate is 'preference_accuracy', and there is no section preference; "
                "choose a measure of evaluation.metrics, or 'eval_loss'"
            )
        if (self.use_rslora or self.use_dora) and not self.use_lora:
            raise ValueError("use_rslora and use_dora are kinds of LoRA, and use_lora is false")
        return self

    @model_validator(mode="after")
    def _fits_sharding(self) -> Self:
        if not self.sharding.is_on:
            return self
        if self.embedding is not None:
            raise ValueError(
                "there is a section embedding and sharding.mode is 'fsdp': encoders are small, and "
                "are trained whole; leave sharding out"
            )
        if self.quantization:
            raise ValueError(
                f"quantization is {self.quantization!r} and sharding.mode 'fsdp': packed weights "
                "are not sharded; a model in 4 bits may fit one worker, else leave it out"
            )
        if self.use_dora:
            raise ValueError(
                "use_dora is true and sharding.mode 'fsdp': its magnitudes are made from weights "
                "that no worker holds whole; set use_dora to false"
            )
        if self.optimizer != "adamw":
            raise ValueError(
                f"optimizer is {self.optimizer!r} and sharding.mode 'fsdp': its blocks would "
                "depend on how many workers there are; choose 'adamw'"
            )
        if self.evaluation.generates:
            raise ValueError(
                f"evaluation.match is {self.evaluation.match!r} and sharding.mode 'fsdp': answers "
                "are not generated by a model in pieces; set it to 'exact'"
            )
        return self

    def _fits_preferences(self, preference: PreferenceOptions) -> None:
        if self.lora_dropout:
            raise ValueError(
                f"lora_dropout is {self.lora_dropout:g}: with preferences the trained model and "
                "its reference must be the same where nothing was learnt; set it to 0"
            )
        if not self.use_lora and preference.reference == "model":
            raise ValueError(
                "preference.reference is 'model' and use_lora is false: the model does not hold "
                "what it was; set it to 'precomputed'"
            )
        if self.evaluation.metrics:
            raise ValueError(
                f"evaluation.metrics is {list(self.evaluation.metrics)}, which are of answers to "
                "be imitated; of preferences, loss and accuracy always are measured"
            )

    @model_validator(mode="after")
    def _fits_embedding(self) -> Self:
        if self.embedding is None:
            if self.evaluation.gate in EMBEDDING_MEASURES:
                raise ValueError(
                    f"evaluation.gate is {self.evaluation.gate!r}, and there is no section "
                    "embedding; choose a measure of evaluation.metrics, or 'eval_loss'"
                )
            return self
        if self.preference is not None:
            raise ValueError("there are sections preference and embedding; a run is of one kind")
        if self.quantization is not None:
            raise ValueError(
                f"quantization is {self.quantization!r}: encoders are small, and are trained as "
                "they are; leave it out"
            )
        if self.batch_size < 2 * self.shards:
            raise ValueError(
                f"batch_size is {self.batch_size} and shards is {self.shards}: a text is compared "
                "with the others of its shard, so a shard has two rows at least; raise batch_size"
            )
        if self.evaluation.metrics:
            raise ValueError(
                f"evaluation.metrics is {list(self.evaluation.metrics)}, which are of answers to "
                "be imitated; of embeddings, the accuracy of retrieval always is measured"
            )
        return self

    @property
    def method(self) -> Method:
        """In a word."""
        if not self.use_lora:
            return "full"
        return "qlora" if self.quantization else "lora"

    def numbers(self) -> dict[str, Any]:
        """The keys that change what is computed, for the fingerprint."""
        dumped = self.model_dump(mode="json", exclude={"allow_inexact", *_NOT_NUMBERS})
        # the model is known by its digest, and the data by theirs, wherever they lie
        dumped.pop("model_name")
        dumped.pop("data")
        if self.preference is not None:
            dumped["preference"] = self.preference.numbers()
        if self.embedding is None:
            dumped.pop("embedding")  # runs of the releases before had no such key
        # how the model is cut changes the order of sums; where it is whole nothing is said, so that
        # runs from before there was a choice go on
        dumped.pop("sharding")
        if self.sharding.is_on:
            dumped["sharding"] = self.sharding.mode
        return dumped


def read_config(
    path: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    source: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """The configuration of a YAML file, with single keys changed.

    Args:
        path: The file.
        changes: Dotted key to value, as `--set data.max_length=512` gives them.
        source: What the file is called in messages; None: its path.
        defaults: Values of keys that the file does not have, or leaves empty.

    Raises:
        SettingsError: the file is absent, no YAML or no mapping, or a key or value is wrong; the
            message names all that are.
    """
    called = source or str(path)
    return make_config(read_mapping(path, changes, source=called, defaults=defaults), called)


def make_config(given: Mapping[str, Any], called: str) -> TrainingConfig:
    """The configuration that a mapping describes.

    Raises:
        SettingsError: as `read_config`.
    """
    return validated(TrainingConfig, given, called)
