"""The page of a published model: what it is made of, how, and what was measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from ironcliw import __version__
from train.evaluation.report import measures_of

Kind = Literal["adapter", "merged", "full"]

_HUB_LICENCES = {"apache-2.0": "apache-2.0", "mit": "mit", "llama-2": "llama2"}
"""Names in the catalogue to the identifiers of https://huggingface.co/docs/hub/repositories-licenses."""
_KNOWN_LICENCES = frozenset(
    {
        "apache-2.0",
        "mit",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "gemma",
        "openrail",
    }
    | {"bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "gpl-3.0", "other"}
)
_METHODS = {
    "use_rslora": "rsLoRA (arXiv 2312.03732)",
    "use_dora": "DoRA (arXiv 2402.09353)",
}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a page says.

    Attributes:
        repository: OWNER/NAME.
        kind: What is published.
        base: Name of the base; no path.
        base_repository: Of the base on the Hub; None: it is not known.
        base_digest: SHA-256 of the base's weights.
        licence: Of the base, as the catalogue or its publisher names it.
        config: Of the run.
        data_digest: Of the tokenised rows.
        before: Measures of the base; empty: nothing was held out.
        after: And of what is published.
        verdict: What the gate says, in words.
        forced: Published although the gate says no.
        rounded: Of a base that was read from a GGUF file, how its weights are rounded there.
    """

    repository: str
    kind: Kind
    base: str
    base_repository: str | None
    base_digest: str
    licence: str
    config: Mapping[str, Any]
    data_digest: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    forced: bool = False
    rounded: str = ""


def model_card(facts: CardFacts) -> str:
    """Markdown with the metadata that the Hub reads."""
    from huggingface_hub import ModelCardData

    identifier = hub_licence(facts.licence)
    metadata = ModelCardData(
        base_model=facts.base_repository,
        **_relation(facts),
        library_name=_library(facts),
        license=identifier,
        license_name=_slug(facts.licence) if identifier == "other" else None,
        pipeline_tag="sentence-similarity" if _makes_vectors(facts) else "text-generation",
        tags=_tags(facts),
    )
    lines = [
        "---",
        metadata.to_yaml().strip(),
        "---",
        "",
        f"# {facts.repository.partition('/')[2]}",
    ]
    lines += ["", _first(facts), "", "## Training", "", *_training(facts)]
    lines += [
        "",
        "## Evaluation",
        "",
        *_evaluation(facts),
        "",
        "## Licence",
        "",
        _licence(facts),
        "",
    ]
    return "\n".join(lines)


def _makes_vectors(facts: CardFacts) -> bool:
    return facts.config.get("embedding") is not None


def _library(facts: CardFacts) -> str:
    """That loads it."""
    if facts.kind == "adapter":
        return "peft"
    return "sentence-transformers" if _makes_vectors(facts) else "transformers"


def _relation(facts: CardFacts) -> dict[str, Any]:
    """How it is listed on the base's page."""
    if facts.base_repository is None:
        return {}
    return {"base_model_relation": "adapter" if facts.kind == "adapter" else "finetune"}


def hub_licence(name: str) -> str:
    """The Hub's identifier of a licence; `other` where it has none."""
    lower = name.lower()
    found = _HUB_LICENCES.get(lower, lower)
    return found if found in _KNOWN_LICENCES else "other"


def _first(facts: CardFacts) -> str:
    base = facts.base
    if facts.base_repository is not None:
        base = f"[{facts.base_repository}](https://huggingface.co/{facts.base_repository})"
    what = {
        "adapter": f"An adapter for {base}, in peft's format.",
        "merged": f"{base} with a trained adapter merged into its weights.",
        "full": f"{base}, all of whose weights were trained further.",
    }[facts.kind]
    rounded = ""
    if facts.rounded:
        rounded = (
            " It was trained on the base's weights as a GGUF file has them "
            f"({facts.rounded}), which are rounded."
        )
    return f"{what}{rounded} SHA-256 of the base's weights: `{facts.base_digest}`."


def _training(facts: CardFacts) -> list[str]:
    config = facts.config
    data = config.get("data") or {}
    files = ", ".join(f"`{PurePosixPath(str(each)).name}`" for each in data.get("train") or ())
    rows: list[tuple[str, Any]] = [("objective", _objective(config)), ("method", _method(config))]
    rows += [("data", files or "not named"), ("SHA-256 of the tokenised rows", facts.data_digest)]
    if data.get("chat_template"):
        rows.append(("chat template", "of its own: `chat_template.jinja`"))
    names = ("num_epochs", "max_steps", "batch_size", "learning_rate", "schedule", "seed")
    rows += [(name, config[name]) for name in names if config.get(name) is not None]
    rows.append(("made with", f"ironcliw {__version__}"))
    return [
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows if value != ""),
    ]


def _objective(config: Mapping[str, Any]) -> str:
    if (embedding := config.get("embedding")) is not None:
        lengths = ", ".join(f"{length}" for length in embedding["matryoshka"])
        shorter = f"; also of the first {lengths} dimensions" if lengths else ""
        return (
            "vectors of texts that belong together (contrastive, InfoNCE), temperature "
            f"{embedding['temperature']:g}{shorter}"
        )
    preference = config.get("preference")
    if preference is None:
        return "answers are imitated (supervised)"
    more = "".join(
        f", {name.replace('_', ' ')} {preference[name]:g}"
        for name in ("label_smoothing", "gamma")
        if preference.get(name)
    )
    return f"preferences, loss {preference['loss']}, beta {preference['beta']:g}{more}"


def _method(config: Mapping[str, Any]) -> str:
    if not config.get("use_lora"):
        return "all weights"
    kind = next((words for key, words in _METHODS.items() if config.get(key)), "LoRA")
    held = f", base held in {config['quantization']}" if config.get("quantization") else ""
    return f"{kind}, rank {config.get('lora_rank')}, alpha {config.get('lora_alpha'):g}{held}"


def _evaluation(facts: CardFacts) -> list[str]:
    if not facts.after:
        return ["Nothing was held out: nothing tells whether it is better than its base."]
    rows = [
        (words, facts.before.get(name), facts.after[name])
        for name, words in measures_of(facts.after).items()
    ]
    page = [f"{facts.after.get('eval_rows', 'Some')} held-out rows.", ""]
    page += ["| measure | base | this model |", "| --- | ---: | ---: |"]
    page += [f"| {name} | {_number(before)} | {_number(after)} |" for name, before, after in rows]
    if facts.verdict:
        page += ["", f"{facts.verdict}."]
    if facts.forced:
        page += [
            "",
            "It is worse than its base, or was not compared with it, and published all the same.",
        ]
    return page


def _licence(facts: CardFacts) -> str:
    return f"The base is published under {facts.licence}, whose terms hold for what is made of it."


def _tags(facts: CardFacts) -> list[str]:
    if _makes_vectors(facts):
        tags = ["ironcliw", "sentence-similarity", "feature-extraction"]
    else:
        tags = ["ironcliw", "dpo" if facts.config.get("preference") else "sft"]
    return tags + (["lora"] if facts.config.get("use_lora") else [])


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"


def _slug(name: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in name.lower()).strip("-") or "unknown"


__all__: Sequence[str] = ("CardFacts", "Kind", "hub_licence", "model_card")
