"""What `ironcliw status` shows: the service's own report, and the settings with their origin."""

from __future__ import annotations

from typing import Any

import httpx

from ironcliw.console import held, megabytes, precision_in_use, write_line, write_table
from ironcliw.errors import ClusterError, NotRunningError, SettingsError
from ironcliw.settings import (
    LOOPBACK_HOSTS,
    Settings,
    effective_settings,
    load_settings_with_origins,
)


def settings_rows() -> list[tuple[str, Any, str]]:
    """(dotted name, value, origin) of every setting; secrets are masked."""
    settings, origins = load_settings_with_origins()
    values = effective_settings(settings)
    return [(name, values[name], origins[name]) for name in sorted(values)]


def fetch_status(settings: Settings) -> dict[str, Any]:
    """The report of `GET /v1/status`.

    Raises:
        NotRunningError: nobody listens.
        SettingsError: `client.base_url` is no URL.
        ClusterError: the service answers with an error.
    """
    headers = {}
    if settings.client.api_key is not None:
        headers["authorization"] = f"Bearer {settings.client.api_key.get_secret_value()}"
    url = settings.base_url + "/v1/status"
    try:
        # a proxy of the environment cannot reach this machine's loopback
        trust_env = httpx.URL(url).host not in LOOPBACK_HOSTS
        response = httpx.get(url, headers=headers, timeout=10.0, trust_env=trust_env)
    except httpx.InvalidURL as error:
        raise SettingsError(
            f"client.base_url is {settings.base_url!r}, which is no URL: {error}"
        ) from error
    except httpx.HTTPError as error:
        advice = (
            "check client.base_url"
            if settings.client.base_url
            else f"its logs are in {settings.state_dir / 'logs'} and "
            f"{settings.ray_temp_dir / 'session_latest' / 'logs'}; `ironcliw up` starts it again"
        )
        raise NotRunningError(
            f"the service at {settings.base_url} does not answer ({error}); {advice}"
        ) from error
    if response.status_code != 200:
        raise ClusterError(f"{url} answered {response.status_code}: {response.text}")
    report: dict[str, Any] = response.json()
    return report


def write_status(report: dict[str, Any]) -> None:
    """Draw a report as tables."""
    if "base_url" in report:
        write_line(f"API {report['base_url']}/v1   dashboard {report['dashboard_url']}")
    for reason in report["degraded"]:
        write_line(f"DEGRADED  {reason}")
    if not report["degraded"]:
        write_line("nothing is degraded")
    write_line("")
    write_table(
        ("node", "address", "state", "cpus", "memory"),
        [
            (
                node["name"] + (" (head)" if node["head"] else ""),
                node["address"],
                "alive" if node["alive"] else "dead",
                node["cpus"],
                megabytes(node["memory_bytes"]),
            )
            for node in report["nodes"]
        ],
    )
    for line in actors_lines(report.get("actors")):
        write_line(line)
    write_line("")
    for variant in report["variants"]:
        if "state" in variant:
            write_line(f"{variant['name']} is {variant['state']}")
            if "budget_bytes" not in variant:
                continue  # nobody is there to say what it holds
        write_line(
            f"models on {variant['name']}: {megabytes(variant.get('resident_bytes')) or '0 MB'} of "
            f"{megabytes(variant.get('budget_bytes')) or 'unknown'} budget, process "
            f"{megabytes(variant.get('process_bytes')) or 'unknown'}"
        )
        if variant.get("native"):
            write_line(f"compiled kernels: {variant['native']}")
    queues = report["queues"]
    write_table(
        ("model", "state", "device", "precision", "memory", "uses", "avg ms", "waiting tokens"),
        [
            (
                row["id"],
                row["state"] + (" (pinned)" if row["pinned"] else ""),
                row["device"],
                precision_in_use(row["precision"], row.get("precision_reason")),
                held(row["bytes"], row.get("kv_bytes", 0)),
                row["uses"],
                row["average_ms"],
                queues.get(row["id"], {}).get("waiting_tokens", 0),
            )
            for row in report["models"]
        ],
    )


def actors_lines(actors: dict[str, Any] | None) -> list[str]:
    """How workflows and agents stand, for people; nothing where nobody leads them here."""
    if actors is None or actors["state"] != "leading":
        return []
    messages = {**actors["messages"], "dead_letters": actors["messages"]["dead_letters"] or 0}
    lines = [
        f"workflows: {_counted(actors['workflows'])}; steps: {_counted(actors['steps'])}",
        f"agents: {_counted(actors['agents'])}; messages: {_counted(messages)}",
    ]
    if actors["open_circuits"]:
        lines.append(f"not asked for a while: {', '.join(actors['open_circuits'])}")
    return lines


def _counted(counts: dict[str, int]) -> str:
    told = (f"{count} {_name(name, count)}" for name, count in counts.items())
    return ", ".join(told) or "none"


def _name(name: str, count: int) -> str:
    words = name.replace("_", " ")
    return "dead letter" if (words, count) == ("dead letters", 1) else words
