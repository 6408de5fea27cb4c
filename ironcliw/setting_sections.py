"""The sections of the settings; `ironcliw.settings` reads their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

CpuCapability = Literal["baseline", "avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_i8mm"]

# RFC 1035 label, as GCE demands of names; 63 characters less a "-" and 8 hexadecimal digits
_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z](?:[-a-z0-9]*[a-z0-9])?")
CLUSTER_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,52}[a-z0-9])?")


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
    stop_seconds: float = Field(
        10.0,
        ge=0,
        le=600,
        description="How long `down` waits for steps that may not be repeated, and for agents.",
    )
    application: str = Field(
        "serve.app:build_app", description="Builder of the Serve application, by dotted name."
    )
    preflight: str = Field(
        "serve.preflight:check", description="Check made before the head starts, by dotted name."
    )
    before_down: str | None = Field(
        "cluster.control.teardown:delete_all",
        description="What `down` does first where there is a cloud project, by dotted name.",
    )
    side_modules: tuple[str, ...] = Field(
        ("cluster.control.controller",),
        description="Modules kept running beside a head that has a cloud project.",
    )
    services: tuple[str, ...] = Field(
        ("actors.service:start",),
        description="Functions that `up` calls with the settings once the application is there.",
    )

    @field_validator("worker_ports")
    @classmethod
    def _check_range(cls, value: tuple[int, int]) -> tuple[int, int]:
        first, last = value
        if not 1024 <= first <= last <= 65_535:
            raise ValueError(
                "the first port must be 1024 or more, the last 65535 or less, in order"
            )
        return value


class PriceSettings(Section):
    """US dollars of one machine type, by the hour."""

    spot: float | None = Field(None, ge=0, description="Of a Spot machine.")
    regular: float | None = Field(None, ge=0, description="Of a regular one.")


class BudgetSettings(Section):
    """What the cloud may cost, in US dollars, by calendar day and month in UTC."""

    month_usd: float = Field(25.0, gt=0, description="No machine is launched past it in a month.")
    day_usd: float | None = Field(None, gt=0, description="The same for a day; unset: no cap.")
    egress_month_gb: float = Field(
        10.0, gt=0, description="Gigabytes that may leave the cloud in a month."
    )
    prices: dict[str, PriceSettings] = Field(
        default_factory=dict, description="By machine type; they win over the table that ships."
    )
    disk_gb_month_usd: float | None = Field(None, ge=0, description="A gigabyte of disk a month.")
    address_hour_usd: float | None = Field(None, ge=0, description="An external address an hour.")
    egress_gb_usd: float | None = Field(None, ge=0, description="A gigabyte that leaves.")


# A baked image boots and joins in about one minute. Another one installs Python, torch and Ray
# first, some 3 GB over the network: minutes, and more where a mirror is slow.
_JOIN_SECONDS = 300.0
_JOIN_AND_INSTALL_SECONDS = 900.0


def _default_join_seconds(fields: dict[str, Any]) -> float:
    """Of the fields that stand before it; one that is wrong is missing."""
    return _JOIN_SECONDS if fields.get("image_is_baked") else _JOIN_AND_INSTALL_SECONDS


class CloudSettings(Section):
    """GCP Spot workers; without a project there are none."""

    project: str | None = Field(None, description="GCP project; unset: no workers in the cloud.")
    cluster_name: str = Field(
        "ironcliw", description="Begins the workers' names and labels them; one head a name."
    )
    zones: tuple[str, ...] = Field(
        ("us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f"),
        min_length=1,
        description="Where to look for capacity; all of one region.",
    )
    machine_type: str = Field("e2-highmem-4", description="Of a worker.")
    market: Literal["spot", "regular"] = Field("spot", description="How workers are bought.")
    max_workers: int = Field(2, ge=0, le=100, description="Most workers at once.")
    image: str = Field(
        "projects/debian-cloud/global/images/family/debian-12", description="Boot image."
    )
    image_is_baked: bool = Field(
        False, description="The image holds Python, Ray and the pins; else they are installed."
    )
    disk_gb: int = Field(50, ge=20, description="Boot disk.")
    network: str = Field("global/networks/default", description="VPC network.")
    subnetwork: str | None = Field(None, description="Of the region; unset: the network's own.")
    external_address: bool = Field(
        True, description="Give workers one; without it they need Cloud NAT to install anything."
    )
    service_account: str | None = Field(None, description="E-mail; unset: none is attached.")
    vpn: Literal["none", "tailscale", "wireguard"] = Field(
        "tailscale", description="How head and workers reach each other; `none`: one network."
    )
    vpn_secret: str | None = Field(
        None, description="Secret Manager name of the workers' VPN key or configuration."
    )
    token_secret: str | None = Field(
        None, description="Secret Manager name of Ray's token; unset: instance metadata."
    )
    max_run_hours: float = Field(
        4.0, gt=0, le=168, description="The cloud deletes a worker after it, whoever is away."
    )
    notice_seconds: Literal[0, 15, 30, 120] = Field(
        120,
        description="Planned with between a preemption's notice and the power-off; GCE gives 30 "
        "and, where it is asked for, 120.",
    )
    idle_minutes: float = Field(15.0, gt=0, description="An idle worker is removed after it.")
    join_seconds: float = Field(
        default_factory=_default_join_seconds,
        gt=0,
        description="A worker that has not joined by then is deleted; unset: 300 where "
        "cloud.image_is_baked, else 900, as it has Python and Ray to install first.",
    )
    head_gone_minutes: float = Field(
        10.0, gt=0, description="Workers that reach no head for so long power off."
    )
    zone_cooldown_seconds: float = Field(
        300.0, gt=0, description="A zone without capacity is not asked again before."
    )
    keep_warm: tuple[str, ...] = Field(
        (), description="Windows in which one worker stays, e.g. `mon-fri 09:00-18:00`, local time."
    )
    api_endpoint: str | None = Field(
        None, description="Compute API of a test bed; unset: Google's."
    )
    metadata_url: str = Field(
        "http://169.254.169.254/computeMetadata/v1", description="Metadata server of a VM."
    )

    @field_validator("notice_seconds", mode="before")
    @classmethod
    def _read_number(cls, value: object) -> object:
        # a variable of the environment is text, and a choice of numbers converts nothing
        return int(value) if isinstance(value, str) and value.isdigit() else value

    @field_validator("project")
    @classmethod
    def _check_project(cls, value: str | None) -> str | None:
        if value is not None and not _PROJECT.fullmatch(value):
            raise ValueError(
                "a project's id is expected, not its name: lower-case letters, digits and hyphens, "
                "beginning with a letter"
            )
        return value

    @field_validator("cluster_name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not CLUSTER_NAME.fullmatch(value):
            raise ValueError(
                "a machine's name begins with it, so it must be 1 to 54 lower-case letters, digits "
                "and hyphens, begin with a letter and not end with a hyphen"
            )
        return value


class CascadeStep(Section):
    """One model of a cascade of decisions."""

    model: str = Field(description="A model id that decides, such as BASE:HEAD.")
    confidence: float = Field(
        0.9, gt=0, le=1, description="An answer of at least so much ends the cascade."
    )
    temperature: float = Field(
        1.0, gt=0, le=100, description="Of its probabilities; above 1 they become less sure."
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
        "models of the BERT family, classifiers of BERT's and BART's, on the CPU; the others as "
        "with `auto`, and the status says why.",
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
    cascades: dict[str, Annotated[tuple[CascadeStep, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Models that decide one after the other until one is sure, by the name that "
        "requests ask for.",
    )
    refusal_threshold: float | None = Field(
        None, ge=0, le=1, description="Decisions below it are refusals; unset: as calibrated."
    )
    spot_idle_seconds: float = Field(
        300.0, gt=0, description="Replicas in the cloud end after so long without a request."
    )
    attempt_timeout_seconds: float = Field(
        3.0, gt=0, description="A replica in the cloud that is silent for so long is given up."
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
    placement: Literal["auto", "local", "spot"] | None = Field(
        None,
        description="Where it is served: `local`, on the head; `spot`, in the cloud, and on the "
        "head while that wakes; unset: `auto`, on the head where it fits.",
    )


class AdapterSettings(Section):
    """An adapter that is served beside those that training has published."""

    base: str = Field(description="Model of the catalogue that it changes.")
    source: str = Field(description="`dir:PATH`, `s3://...` or `gs://...`: a folder of peft's.")
    digest: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 that its files must have."
    )
    kind: Literal["lora", "head"] = Field(
        "lora", description="head: a classifier over the vectors of an embedding model."
    )

    @field_validator("source")
    @classmethod
    def _check_source(cls, value: str) -> str:
        if not value.startswith("dir:") and "://" not in value:
            raise ValueError("give dir:PATH, s3://BUCKET/PATH, gs://BUCKET/PATH or another URI")
        return value


class ClientSettings(Section):
    """How the client and the command line reach a server."""

    base_url: str | None = Field(None, description="Server; unset: the local one.")
    api_key: SecretStr | None = Field(None, description="API key sent with each request.")
    timeout_seconds: float = Field(60.0, gt=0, description="Deadline of a call.")
