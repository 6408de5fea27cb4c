"""What is wrong with a `ray_cluster.yaml`, with the line and, for a typo, the key that was meant.

Four rounds, each over what the one before let pass: YAML itself, Ray's schema and what Ray needs
beyond it, our part below `provider`, and Ray's own reader (`AutoscalingConfig` of autoscaler v2).
"""

from __future__ import annotations

import difflib
import importlib.resources
import ipaddress
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.config import (
    CLUSTER_FILE,
    PROVIDER_CLASS,
    REQUIRED_KEYS,
    cloud_region,
    worker_resources,
)
from cluster.keep_warm import KeepWarm
from ironcliw.errors import SettingsError
from ironcliw.problems import follows, unknown_key, what_is_wrong
from ironcliw.setting_sections import BudgetSettings, CloudSettings, Section

Place = tuple[str | int, ...]
Problem = tuple[Place, str]

_MOST_PROBLEMS = 5
_PROVIDER_KEYS = ("type", "module", "disable_node_updaters", "head", "cloud", "budget")
_HEAD_KEYS: dict[str, type] = {"instance_id": str, "node_type": str, "address": str, "port": int}


class SourceLines:
    """The line of every value of a YAML text."""

    def __init__(self, text: str, source: str) -> None:
        """Read the text.

        Raises:
            SettingsError: it is no YAML, or holds a key twice (PyYAML would take the last).
        """
        self.source = source
        self._lines: dict[Place, int] = {}
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.value = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise SettingsError(f"{source}{line}: no valid YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise SettingsError(f"{source}: no valid YAML: {error}") from error
        if root is not None:
            self._visit(root, ())

    def at(self, place: Place) -> str:
        """`file:line` of a value, or of the nearest one around it."""
        while place and place not in self._lines:
            place = place[:-1]
        return f"{self.source}:{self._lines.get(place, 1)}"

    def _visit(self, node: yaml.Node, place: Place) -> None:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._visit(item, (*place, index))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inside = (*place, key.value)
                line = key.start_mark.line + 1
                if inside in self._lines:
                    raise SettingsError(
                        f"{self.source}:{line}: the key {key.value!r} stands here a second time; "
                        f"the first is in line {self._lines[inside]}"
                    )
                self._lines[inside] = line
                self._visit(value, inside)


def read_cluster_file(path: Path) -> dict[str, Any]:
    """A definition from a file, checked.

    Raises:
        SettingsError: there is no such file, or something is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    lines = SourceLines(text, str(path))
    validate(lines.value, lines)
    return dict(lines.value)


def validate(definition: object, lines: SourceLines | None = None) -> None:
    """Check a definition.

    Args:
        definition: As `cluster.config.render` or a YAML file gives it.
        lines: Where it was read from; None: messages name the keys alone.

    Raises:
        SettingsError: it would not work; one message for each problem, five at most.
    """
    if not isinstance(definition, dict):
        source = lines.source if lines else CLUSTER_FILE
        raise SettingsError(f"{source}: a mapping is expected; render one: ironcliw cluster render")
    for check in (_against_schema, _provider_problems, _by_ray):
        problems = list(check(definition))
        if problems:
            raise SettingsError(_message(problems, lines))


def _message(problems: list[Problem], lines: SourceLines | None) -> str:
    told = []
    for place, text in problems[:_MOST_PROBLEMS]:
        name = ".".join(map(str, place))
        where = lines.at(place) if lines else CLUSTER_FILE
        told.append(f"{where}: {name}: {text}" if name else f"{where}: {text}")
    left = len(problems) - len(told)
    return "; ".join(told) + (f"; and {left} more" if left else "")


def _against_schema(definition: dict[str, Any]) -> Iterator[Problem]:
    """What Ray's schema says, and the keys that only Ray's code asks for."""
    import jsonschema

    schema = json.loads(
        importlib.resources.files("ray.autoscaler").joinpath("ray-schema.json").read_text("utf-8")
    )
    validator = jsonschema.Draft7Validator(schema)
    for error in sorted(validator.iter_errors(definition), key=lambda one: list(one.path)):
        yield from _schema_problem(error)
    for key in REQUIRED_KEYS:
        if key not in definition:
            yield (), f"the key {key!r} is missing; Ray gives an external provider no defaults"


def _schema_problem(error: Any) -> Iterator[Problem]:
    place: Place = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for key in sorted(set(error.instance) - set(known), key=str):
            yield (*place, key), unknown_key(str(key), known)
    elif error.validator == "type":
        yield place, f"{error.instance!r} is of the wrong type; {error.validator_value} is expected"
    elif error.validator != "required" or place:
        # a missing key of the top level is said once, by the list of required keys
        yield place, error.message


def _provider_problems(definition: dict[str, Any]) -> Iterator[Problem]:
    """Our own part; a file with another provider is its author's business."""
    provider = definition["provider"]
    if not is_ours(definition):
        yield from _nearly_ours(provider)
        return
    for key in provider:
        if key not in _PROVIDER_KEYS:
            yield ("provider", key), unknown_key(str(key), _PROVIDER_KEYS)
    if provider.get("disable_node_updaters") is not True:
        yield (
            ("provider", "disable_node_updaters"),
            "must be true: workers join by themselves, and Ray would wait for SSH",
        )
    yield from _head_problems(definition)
    yield from _section_problems(BudgetSettings, provider.get("budget"), "budget")
    wrong = list(_section_problems(CloudSettings, provider.get("cloud"), "cloud"))
    yield from wrong or _worker_problems(definition, CloudSettings(**provider["cloud"]))


def is_ours(definition: Mapping[str, Any]) -> bool:
    """Whether a definition names our provider, so that its part is checked here."""
    provider = definition["provider"]
    return bool(provider.get("type") == "external" and provider.get("module") == PROVIDER_CLASS)


def _nearly_ours(provider: Mapping[str, Any]) -> Iterator[Problem]:
    """A slip in what names the provider, which would switch all checks of it off."""
    module = str(provider.get("module", ""))
    if module == PROVIDER_CLASS:
        yield ("provider", "type"), f"is {provider.get('type')!r}; our provider is 'external'"
    elif difflib.get_close_matches(module, [PROVIDER_CLASS], cutoff=0.8):
        yield ("provider", "module"), f"is {module!r}; did you mean {PROVIDER_CLASS!r}?"


def _head_problems(definition: dict[str, Any]) -> Iterator[Problem]:
    place: Place = ("provider", "head")
    head = definition["provider"].get("head")
    if not isinstance(head, Mapping):
        yield place, f"a mapping with {', '.join(_HEAD_KEYS)} is expected"
        return
    for key in head:
        if key not in _HEAD_KEYS:
            yield (*place, key), unknown_key(str(key), _HEAD_KEYS)
    for key, kind in _HEAD_KEYS.items():
        if not isinstance(head.get(key), kind) or isinstance(head.get(key), bool):
            yield (*place, key), f"is {head.get(key)!r}; {kind.__name__} is expected"
            return
    if not 1 <= head["port"] <= 65_535:
        yield (*place, "port"), f"is {head['port']}; a port is 1 to 65535"
    try:
        ipaddress.ip_address(head["address"])
    except ValueError:
        yield (*place, "address"), f"is {head['address']!r}; an IP address is expected"
    if head.get("node_type") != definition["head_node_type"]:
        yield (*place, "node_type"), f"must be head_node_type, {definition['head_node_type']!r}"


def _section_problems(section: type[Section], values: object, name: str) -> Iterator[Problem]:
    """What the settings' own section says of its values."""
    place: Place = ("provider", name)
    if not isinstance(values, Mapping):
        yield place, f"a mapping with the settings of `{name}` is expected"
        return
    try:
        section(**values)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            if follows(item):
                continue
            given = "" if item["type"] == "extra_forbidden" else f" (given: {item['input']!r})"
            text = f"{what_is_wrong(item, section.model_fields)}{given}"
            yield (*place, *item["loc"]), text


def _worker_problems(definition: dict[str, Any], cloud: CloudSettings) -> Iterator[Problem]:
    """A type that promises more than its machine has would never be satisfied."""
    try:
        offered = worker_resources(cloud)
        cloud_region(cloud)
        for window in cloud.keep_warm:
            KeepWarm.parse(window)
    except SettingsError as error:
        yield ("provider", "cloud"), error.message
        return
    for name, kind in definition["available_node_types"].items():
        place: Place = ("available_node_types", name)
        if name == definition["head_node_type"]:
            continue
        for key, most in offered.items():
            if kind["resources"].get(key, 0) > most:
                yield (
                    (*place, "resources", key),
                    f"is {kind['resources'][key]}; a {cloud.machine_type} has {most}",
                )
        if kind.get("max_workers", 0) > cloud.max_workers:
            yield (
                (*place, "max_workers"),
                f"is above provider.cloud.max_workers, {cloud.max_workers}",
            )
    if definition["max_workers"] > 0 and cloud.project is None:
        yield (
            ("max_workers",),
            "must be 0 without provider.cloud.project: every launch would fail, again and again",
        )


def _by_ray(definition: dict[str, Any]) -> Iterator[Problem]:
    """What Ray's own reader says; it works on a copy."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    ray_logger = logging.getLogger("ray.autoscaler._private.util")
    level = ray_logger.level
    # it warns of two legacy keys, which it has put there itself
    ray_logger.setLevel(logging.ERROR)
    try:
        AutoscalingConfig(definition, skip_content_hash=True).get_node_type_configs()
    except AssertionError:
        yield ("available_node_types",), "min_workers must be 0 or more, and max_workers no less"
    except (ValueError, RuntimeError) as error:
        yield (), f"Ray refuses it: {error}"
    finally:
        ray_logger.setLevel(level)
