"""A model folder as sentence-transformers or transformers writes it, read without torch.

Covered: transformer, pooling, dense, layer norm and normalise modules, prompts, safetensors in one
file or in shards. Not covered: pickled weights, code that travels with a model, modules other than
those (routers, images, static embeddings).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironcliw.errors import ModelLoadError
from ironcliw.json_files import optional_object, read_json, read_object
from ironcliw.safetensors_files import StoredTensor, stored_tensors, weight_files

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""In the order in which sentence-transformers joins their outputs."""

ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")

_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_DEFAULT_WINDOW = 512
# transformers writes 1e30 where a tokenizer has no limit of its own
_NO_WINDOW = 10**9


@dataclass(frozen=True, slots=True)
class Pooling:
    """Token vectors to one vector: the modes' outputs joined end to end."""

    modes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer with an activation (a name of `torch.nn`) over the pooled vector."""

    activation: str
    tensors: Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation of the pooled vector."""

    tensors: Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True)
class Normalize:
    """Scale the vector to length 1."""


HeadModule = Pooling | Dense | LayerNorm | Normalize


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """What a model folder says, checked.

    Attributes:
        path: The folder that was given.
        transformer: The folder of config.json, weights and tokenizer; often the same.
        config: The transformer's config.json.
        tensors: The transformer's weights by name.
        head: The modules behind the transformer, pooling first.
        max_tokens: The model's window, special tokens included.
        lowercase: Whether texts are lower-cased before the tokenizer sees them.
        prompts: Text to put before an input, by the name of the use.
        default_prompt_name: The prompt used when a request names none.
        similarity: How vectors are meant to be compared: `cosine`, `dot`, ...
    """

    path: Path
    transformer: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    head: tuple[HeadModule, ...]
    max_tokens: int
    lowercase: bool
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    similarity: str

    @classmethod
    def read(cls, path: Path | str) -> EncoderFolder:
        """Read a sentence-transformers folder, or a plain transformers one.

        A plain folder gets what sentence-transformers gives it: mean pooling (last token for a
        causal language model) and no normalisation.

        Raises:
            ModelLoadError: a file is absent, damaged, pickled, or asks for what is not supported;
                the message names the file and what to do.
        """
        path = Path(path)
        if not path.is_dir():
            raise ModelLoadError(f"{path} is not a folder; give a model's folder")
        if (path / "modules.json").exists():
            transformer, modules = _modules(path)
        else:
            transformer, modules = path, None
        config = read_object(transformer / "config.json")
        _refuse_own_code(transformer, config)
        settings = optional_object(transformer / "sentence_bert_config.json")
        uses = optional_object(path / "config_sentence_transformers.json")
        return cls(
            path=path,
            transformer=transformer,
            config=config,
            tensors=stored_tensors(weight_files(transformer)),
            head=_plain_head(config) if modules is None else modules,
            max_tokens=_window(transformer, config, settings.get("max_seq_length")),
            lowercase=bool(settings.get("do_lower_case", False)),
            prompts=_prompts(path, uses),
            default_prompt_name=uses.get("default_prompt_name"),
            similarity=uses.get("similarity_fn_name") or "cosine",
        )

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        return int(self.config.get("vocab_size", 0))

    @property
    def head_tensors(self) -> tuple[StoredTensor, ...]:
        """Weights of the modules behind the transformer."""
        holders = [module for module in self.head if isinstance(module, Dense | LayerNorm)]
        return tuple(tensor for holder in holders for tensor in holder.tensors.values())


def transformer_folder(path: Path) -> Path:
    """Where a folder with a modules.json has config.json, weights and tokenizer.

    Raises:
        ModelLoadError: as `EncoderFolder.read`.
    """
    return _modules(path)[0]


def _refuse_own_code(folder: Path, config: Mapping[str, Any]) -> None:
    if "AutoModel" in (config.get("auto_map") or {}):
        raise ModelLoadError(
            f"{folder / 'config.json'} asks to run code that comes with the model (auto_map), "
            "which is never done here; use a model of an architecture that transformers knows"
        )


def _modules(path: Path) -> tuple[Path, tuple[HeadModule, ...]]:
    listing = path / "modules.json"
    entries = read_json(listing)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("type"), str) for e in entries
    ):
        raise ModelLoadError(f"{listing} is not a list of modules; download it again")
    kinds = [_module_kind(listing, entry["type"]) for entry in entries]
    folders = [path / str(entry.get("path", "")) for entry in entries]
    if not all(folder.resolve().is_relative_to(path.resolve()) for folder in folders):
        raise ModelLoadError(f"{listing} names folders outside its own; do not use this model")
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelLoadError(
            f"{listing} begins with {', '.join(kinds[:2]) or 'nothing'}; supported are folders "
            "that begin with Transformer, Pooling"
        )
    head = [
        _head_module(kind, folder)
        for kind, folder in zip(kinds[1:], folders[1:], strict=True)
        if kind != "Dropout"  # does nothing outside training
    ]
    return folders[0], tuple(head)


def _module_kind(listing: Path, dotted: str) -> str:
    if not dotted.startswith("sentence_transformers."):
        raise ModelLoadError(
            f"{listing} asks to run code that comes with the model ({dotted}), which is never done "
            "here; use a model made of sentence-transformers' own modules"
        )
    return dotted.rpartition(".")[2]


def _head_module(kind: str, folder: Path) -> HeadModule:
    if kind == "Pooling":
        return Pooling(_pooling_modes(folder / "config.json"))
    if kind == "Dense":
        return _dense(folder)
    if kind == "LayerNorm":
        return LayerNorm(stored_tensors(weight_files(folder)))
    if kind == "Normalize":
        return Normalize()
    raise ModelLoadError(
        f"{folder} is a {kind} module; supported are Transformer, Pooling, Dense, LayerNorm, "
        "Dropout and Normalize"
    )


def _pooling_modes(file: Path) -> tuple[str, ...]:
    config = read_object(file)
    if config.get("include_prompt") is False:
        raise ModelLoadError(f"{file} pools without the prompt's tokens, which is not supported")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_POOLING_KEYS.items() if config.get(key)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown:
        raise ModelLoadError(
            f"{file} asks for pooling {unknown[0]!r}; known are {', '.join(POOLING_MODES)}"
        )
    return modes


def _dense(folder: Path) -> Dense:
    file = folder / "config.json"
    config = read_object(file)
    activation = str(config.get("activation_function") or "torch.nn.Identity").rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise ModelLoadError(
            f"{file} asks for activation {activation!r}; known are {', '.join(ACTIVATIONS)}"
        )
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != (
        "sentence_embedding"
    ):
        raise ModelLoadError(f"{file} wires the dense layer in a way that is not supported")
    return Dense(activation, stored_tensors(weight_files(folder)))


def _plain_head(config: Mapping[str, Any]) -> tuple[HeadModule, ...]:
    # sentence_transformers 6.2, SentenceTransformer._load_default_modules
    architecture = next(iter(config.get("architectures") or ()), "")
    causal = architecture.endswith("ForCausalLM") and config.get("is_causal", True)
    return (Pooling(("lasttoken" if causal else "mean",)),)


def _window(folder: Path, config: Mapping[str, Any], configured: Any) -> int:
    """The smallest limit that is stated; configured length first, as sentence-transformers does."""
    if configured is None:
        configured = optional_object(folder / "tokenizer_config.json").get("model_max_length")
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in {
        "roberta",
        "xlm-roberta",
        "camembert",
        "mpnet",
    }:
        # their positions begin behind the padding token's id
        positions -= int(config.get("pad_token_id", 1)) + 1
    limits = [
        int(limit)
        for limit in (configured, positions)
        if isinstance(limit, int | float) and 0 < limit < _NO_WINDOW
    ]
    return min(limits, default=_DEFAULT_WINDOW)


def _prompts(path: Path, uses: Mapping[str, Any]) -> dict[str, str]:
    file = path / "config_sentence_transformers.json"
    prompts = uses.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ModelLoadError(f"{file}: prompts must be an object of name to text")
    name = uses.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise ModelLoadError(
            f"{file} makes {name!r} the default prompt and defines {sorted(prompts)}"
        )
    return {str(key): str(text or "") for key, text in prompts.items()}
