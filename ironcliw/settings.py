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
from typing import Any, Literal, cast, get_args

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ironcliw.actor_settings import ActorsSettings, RoutingSettings
from ironcliw.catalog import Catalog
from ironcliw.errors import SettingsError
from ironcliw.problems import follows, what_is_wrong
from ironcliw.setting_sections import (
    AdapterSettings,
    BenchSettings,
    BudgetSettings,
    ClientSettings,
    CloudSettings,
    ClusterSettings,
    CpuCapability,
    LogSettings,
    ModelSettings,
    ServeSettings,
    StoreSettings,
)

PREFIX = "IRONCLIW_"
# With our prefix, yet no settings: they are read before settings exist, by a child, or by make.
RESERVED = frozenset({"IRONCLIW_CONFIG", "IRONCLIW_NATIVE", "IRONCLIW_SESSION"})
# Never written into a message, however wrong their value is.
_SECRETS = ("client.api_key", "store.url")
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MATCH_VARIABLE = "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"
PythonMatchLevel = Literal["patch", "minor"]
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


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
    handover_dir: Path | None = Field(
        None, description="Set on a worker VM by its startup script: where its end is announced."
    )
    cluster: ClusterSettings = ClusterSettings()
    cloud: CloudSettings = CloudSettings()
    budget: BudgetSettings = BudgetSettings()
    serve: ServeSettings = ServeSettings()
    actors: ActorsSettings = ActorsSettings()
    routing: RoutingSettings = RoutingSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    client: ClientSettings = ClientSettings()
    bench: BenchSettings = BenchSettings()
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    adapters: dict[str, AdapterSettings] = Field(
        default_factory=dict, description="Adapters that are served, by their names."
    )

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

        Ray opens its folder to everybody; the one around it is private, see
        `cluster.head.temp_folder`.
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
    Catalog.of(settings)  # says which change to a model, or which adapter, cannot be
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


def python_match_level(environment: Mapping[str, str] | None = None) -> PythonMatchLevel:
    """How much of the head's Python version a worker must share, by Ray's own switch.

    Ray reads it too, on the head and on every worker (ray/_private/utils.py, check_version_info);
    a head hands on to its workers what this says.

    Args:
        environment: By default this process's.

    Raises:
        SettingsError: It is neither `patch` nor `minor`.
    """
    level = (os.environ if environment is None else environment).get(_MATCH_VARIABLE, "patch")
    if level in get_args(PythonMatchLevel):
        return cast(PythonMatchLevel, level)
    raise SettingsError(
        f"{_MATCH_VARIABLE} is {level!r}, which Ray refuses; set it to `patch` or `minor`, or "
        "unset it, which means `patch`"
    )


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
        if follows(item):
            continue
        name = ".".join(str(part) for part in item["loc"])
        # a mistyped section is reported by its own name, its origin is that of a value inside
        inside = (one for one in origins if one.startswith(name + "."))
        origin = origins.get(name) or origins.get(next(inside, ""), "default")
        hidden = item["type"] == "missing" or any(secret.startswith(name) for secret in _SECRETS)
        given = "" if hidden else f" (given: {item['input']!r})"
        lines.append(f"setting {name} from {origin}: {_rule(item)}{given}")
    return "; ".join(lines)


def _rule(item: Mapping[str, Any]) -> str:
    """What a value breaks; for an unknown key, the keys of its section are at hand."""
    *around, _ = item["loc"]
    section: Any = Settings
    for part in around:
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        section = field.annotation if field is not None else None
    return what_is_wrong(item, getattr(section, "model_fields", ()))
