"""Every setting of the project, and the only reader of the process environment.

Values come from, later ones winning: defaults below, an `ironcliw.toml`, variables
`IRONCLIW_<SECTION>__<NAME>`. The file is the one named by `IRONCLIW_CONFIG`, else
`./ironcliw.toml`, else `<state_dir>/ironcliw.toml`. `ironcliw status --settings` prints the
effective values and where each came from.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ironcliw.catalog import Catalog
from ironcliw.errors import SettingsError

PREFIX = "IRONCLIW_"
# With our prefix, yet no settings: they are read before settings exist, by a child, or by make.
RESERVED = frozenset({"IRONCLIW_CONFIG", "IRONCLIW_NATIVE", "IRONCLIW_SESSION"})
# Never written into a message, however wrong their value is.
_SECRETS = ("client.api_key", "store.url")
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CpuCapability = Literal["baseline", "avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_i8mm"]
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class Section(BaseModel):
    """A section refuses names it does not know: a typo must not pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClusterSettings(Section):
    """The Ray head of this machine."""

    node_ip: str = Field("127.0.0.1", description="Address the head's Ray services listen on.")
    gcs_port: int = Field(
        6380, ge=1024, le=65535, description="Port of Ray's control service (GCS)."
    )
    dashboard_port: int = Field(8265, ge=1024, le=65535, description="Port of the Ray dashboard.")
    metrics_port: int = Field(
        8266, ge=1024, le=65535, description="Loopback port of Ray's metrics agent."
    )
    agent_port: int = Field(8267, ge=1024, le=65535, description="Port of Ray's dashboard agent.")
    worker_ports: tuple[int, int] = Field(
        (20000, 20999), description="First and last port for Ray's worker processes."
    )
    num_cpus: int | None = Field(None, ge=1, description="Cores Ray may use; unset: all.")
    object_store_bytes: int = Field(
        200_000_000, ge=78_643_200, description="Shared-memory object store; grows on use."
    )
    temp_dir: Path | None = Field(
        None, description="Ray's session folder; short, since socket paths are limited."
    )
    start_timeout_seconds: float = Field(
        60.0, gt=0, description="How long `up` waits for the head and the application."
    )
    application: str = Field(
        "serve.app:build_app", description="Builder of the Serve application, by dotted name."
    )
    preflight: str = Field(
        "serve.preflight:check", description="Check made before the head starts, by dotted name."
    )


class ServeSettings(Section):
    """The HTTP service."""

    host: str = Field("127.0.0.1", description="Address of the HTTP service.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the HTTP service.")
    auth: Literal["auto", "required"] = Field(
        "auto", description="`auto`: a key is optional on loopback; `required`: always needed."
    )
    pinned_models: tuple[str, ...] = Field(
        ("all-MiniLM-L6-v2",), description="Models loaded at start and never evicted."
    )
    memory_fraction: float = Field(
        0.6, gt=0, le=0.95, description="Share of RAM that loaded models may hold."
    )
    memory_bytes: int | None = Field(
        None, gt=0, description="The same as a number of bytes; wins over the fraction."
    )
    model_ttl_seconds: float | None = Field(
        None, gt=0, description="Unload a model that is not pinned after this idle time."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `mps` or `cuda`.")
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="Precision of matrix products; pooling is always float32. `int8`: embedding "
        "models of the BERT family on the CPU; the others as with `auto`.",
    )
    threads: int | None = Field(None, ge=1, description="Compute threads of an engine replica.")
    max_body_bytes: int = Field(8_388_608, ge=1024, description="Largest request body.")
    max_batch_items: int = Field(2048, ge=1, description="Most inputs in one request.")
    max_request_tokens: int = Field(
        300_000, ge=1, description="Most tokens in one request, over all inputs."
    )
    max_concurrency_per_key: int | None = Field(
        None, ge=1, description="Requests at once for a key without a limit of its own."
    )
    request_timeout_seconds: float = Field(
        60.0, gt=0, le=3600, description="Deadline of a request without a header of its own."
    )
    batch_tokens: int = Field(2048, ge=1, description="Token budget of one batch.")
    batch_items: int = Field(256, ge=1, description="Most texts in one batch.")
    max_queue_tokens: int = Field(400_000, ge=1, description="Most tokens waiting for a model.")
    max_queue_seconds: float = Field(
        30.0, gt=0, description="Longest estimated wait that is still admitted."
    )
    embedding_cache_bytes: int = Field(
        16_777_216, ge=0, description="Answers kept by content in the ingress; 0 turns it off."
    )
    generation_engine: Literal["auto", "torch", "llamacpp", "vllm"] = Field(
        "auto", description="What computes generating models; `auto` picks by machine and file."
    )
    generation_slots: int = Field(
        8, ge=1, le=256, description="Texts that one model generates at once."
    )
    kv_cache_bytes: int = Field(
        536_870_912, ge=1_048_576, description="Most memory of one model's KV cache."
    )
    max_waiting_jobs: int = Field(
        256, ge=1, description="Most generations waiting for a slot of one model."
    )
    generation_timeout_seconds: float = Field(
        600.0, gt=0, le=3600, description="Deadline of a generation without a header of its own."
    )
    refusal_threshold: float | None = Field(
        None, ge=0, le=1, description="Decisions below it are refusals; unset: as calibrated."
    )


class StoreSettings(Section):
    """Where durable state lives."""

    url: SecretStr | None = Field(
        None, description="SQLAlchemy URL; unset: SQLite in the state directory."
    )


class LogSettings(Section):
    """Logging of the command line and the replicas."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Threshold.")
    format: Literal["text", "json"] = Field("text", description="One line of text, or JSON.")


class BenchSettings(Section):
    """Benchmarks."""

    data: Path = Field(
        Path("../shared/data"), description="Folder of `ironcliw bench fetch-data`'s files."
    )


class ModelSettings(Section):
    """A catalogue entry of the user's own, or a change to a shipped one."""

    source: str | None = Field(
        None, description="`dir:PATH`, `hf:REPO@REVISION`, `gs://...` or `package:DIST/PATH`."
    )
    task: str | None = Field(None, description="embedding, nli, classifier, generation, ...")
    bytes: int | None = Field(None, gt=0, description="Size of the weights.")
    dimensions: int | None = Field(None, gt=0, description="Length of an embedding.")
    context: int | None = Field(None, gt=0, description="Most tokens of one input.")
    licence: str | None = Field(None, description="SPDX name.")
    engine: Literal["torch", "llamacpp", "vllm"] | None = Field(
        None, description="What computes this generating model; unset: serve.generation_engine."
    )
    quantization: Literal["8bit", "4bit"] | None = Field(
        None, description="Quantise the weights when they are loaded."
    )


class ClientSettings(Section):
    """How the client and the command line reach a server."""

    base_url: str | None = Field(None, description="Server; unset: the local one.")
    api_key: SecretStr | None = Field(None, description="API key sent with each request.")
    timeout_seconds: float = Field(60.0, gt=0, description="Deadline of a call.")


class Settings(BaseSettings):
    """The whole tree. Build it with `load_settings`, which also knows the origins."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    state_dir: Path = Field(
        Path("~/.ironcliw"), description="Token, store, logs and process records of this machine."
    )
    cpu_capability: CpuCapability | None = Field(
        None, description="Instruction set level of the compiled kernels; unset: the highest."
    )
    cluster: ClusterSettings = ClusterSettings()
    serve: ServeSettings = ServeSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    client: ClientSettings = ClientSettings()
    bench: BenchSettings = BenchSettings()
    models: dict[str, ModelSettings] = Field(default_factory=dict)

    @field_validator("state_dir")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        if "?" in str(value):
            raise ValueError("the path may hold no question mark: it becomes part of a URL")
        return value.expanduser().absolute()

    @field_validator("models")
    @classmethod
    def _check_ids(cls, value: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        wrong = [name for name in value if not _MODEL_ID.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is no model id: letters, digits, dot, dash and underscore only, "
                "since it becomes part of a path"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` passes: it has read the file and the environment itself."""
        return (init_settings,)

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the state store."""
        if self.store.url is not None:
            return self.store.url.get_secret_value()
        return f"sqlite:///{self.state_dir / 'state.db'}"

    @property
    def ray_temp_dir(self) -> Path:
        """Ray's session folder. A socket path may have 103 bytes on macOS, so it is short.

        Ray opens its folder to everybody; the one around it is private (`cluster.temp_folder`).
        """
        return self.cluster.temp_dir or Path("/tmp") / f"ironcliw-{os.getuid()}" / "ray"

    @property
    def base_url(self) -> str:
        """The service that clients mean: the one in `client.base_url`, else this machine's.

        It is given without the `/v1` that the `openai` client wants at its end.

        Raises:
            SettingsError: `client.base_url` is neither http nor https.
        """
        url = self.client.base_url
        if not url:
            return self.service_url
        if not url.startswith(("http://", "https://")):
            raise SettingsError(
                f"client.base_url is {url!r}; it must start with http:// or https://"
            )
        return url.rstrip("/").removesuffix("/v1")

    @property
    def service_url(self) -> str:
        """Where this machine's HTTP service listens."""
        host = "127.0.0.1" if self.serve.host in {"0.0.0.0", "::"} else self.serve.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.serve.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the HTTP service."""
        return self.serve.host in LOOPBACK_HOSTS


def config_path(environment: Mapping[str, str] | None = None) -> Path | None:
    """The settings file in force, or None.

    Raises:
        SettingsError: `IRONCLIW_CONFIG` names a file that does not exist.
    """
    environment = os.environ if environment is None else environment
    named = environment.get("IRONCLIW_CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise SettingsError(f"IRONCLIW_CONFIG names {named!r}, which is no file")
        return path
    state = Path(environment.get("IRONCLIW_STATE_DIR", "~/.ironcliw")).expanduser()
    candidates = (Path("ironcliw.toml"), state / "ironcliw.toml")
    return next((path.absolute() for path in candidates if path.is_file()), None)


def load_settings(**overrides: Any) -> Settings:
    """Read the file and the environment; `overrides` (nested dicts) win over both.

    Raises:
        SettingsError: a value or a name is wrong; the message says where it was given.
    """
    return load_settings_with_origins(**overrides)[0]


def load_settings_with_origins(**overrides: Any) -> tuple[Settings, dict[str, str]]:
    """Settings, and for each dotted name where its value came from."""
    path = config_path()
    layers = [("file " + str(path), _read_toml(path)), ("environment", _read_environment())]
    layers.append(("argument", overrides))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        merged = _merge(merged, values)
        origins.update(dict.fromkeys(_flatten(values), origin))
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, origins)) from None
    Catalog(settings.models)  # says which change to a model cannot be
    return settings, {name: origins.get(name, "default") for name in _flatten(_dump(settings))}


def effective_settings(settings: Settings) -> dict[str, Any]:
    """Dotted name to value; secrets are masked."""
    return _flatten(_dump(settings))


def process_environment(**changes: str) -> dict[str, str]:
    """A copy of this process's environment with changes, for a child process.

    The folder of this Python comes first on its PATH: `python` in a Ray job must mean the one that
    Ray and the project are installed in, also when the virtual environment is not activated.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {**os.environ, "PATH": path, **changes}


def is_on_path(folder: Path) -> bool:
    """Whether a shell with our environment finds the programs of a folder by their name."""
    return str(folder) in os.environ.get("PATH", os.defpath).split(os.pathsep)


def export_environment(values: Mapping[str, str]) -> None:
    """Set variables of this process: Ray reads its own when it is first imported."""
    os.environ.update(values)


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return dict(TomlConfigSettingsSource(Settings, path)())
    except ValueError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def _read_environment() -> dict[str, Any]:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        if name.split("__")[0].upper() not in known:
            raise SettingsError(
                f"{name} is no setting; write IRONCLIW_<SECTION>__<NAME> with a section of "
                f"{', '.join(sorted(Settings.model_fields))}"
            )
    try:
        return dict(EnvSettingsSource(Settings)())
    except ValueError as error:
        raise SettingsError(f"environment: {error}") from error


def _merge(low: dict[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merge(dict(result[key]), value) if both else value
    return result


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, name + "."))
        else:
            flat[name] = value
    return flat


def _dump(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        # a mistyped section is reported by its own name, its origin is that of a value inside
        inside = (one for one in origins if one.startswith(name + "."))
        origin = origins.get(name) or origins.get(next(inside, ""), "default")
        hidden = item["type"] == "missing" or any(secret.startswith(name) for secret in _SECRETS)
        given = "" if hidden else f" (given: {item['input']!r})"
        lines.append(f"setting {name} from {origin}: {item['msg']}{given}")
    return "; ".join(lines)
