"""What a worker must have in common with the head, taken from the head's own installation.

Pickles travel between them, so Python, Ray and every third-party package of the project must be of
one version. A VM compares before it joins (`cluster.vm.facts.mismatch`), and tells what differs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import ClusterError
from ironcliw.settings import PythonMatchLevel

DISTRIBUTION = "ironcliw"
# What a worker runs: models, and training where the head has it; the rest stays at home.
NEEDED_EXTRA, OPTIONAL_EXTRA = "local", "train"


@dataclass(frozen=True, slots=True)
class HeadVersions:
    """Versions that a worker must have.

    Attributes:
        python: of the interpreter, "3.11.7".
        match: how much of `python` must agree, by Ray's RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL.
        requirements: what a worker installs, as pip reads it.
        pins: (distribution, version) of those and of all that they need, and of the models.
        models: packages of which a model's files are used and no code, as `NAME==VERSION`: what
            they declare to need is not installed.
    """

    python: str
    match: PythonMatchLevel
    requirements: tuple[str, ...]
    pins: tuple[tuple[str, str], ...]
    models: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the VM's `mismatch`."""
        return {"python": self.python, "match": self.match, "pins": dict(self.pins)}

    def constraints(self) -> str:
        """The pins as a constraints file of pip."""
        return "".join(f"{name}=={version.partition('+')[0]}\n" for name, version in self.pins)


def head_versions(match: PythonMatchLevel) -> HeadVersions:
    """The versions of this very process.

    Args:
        match: As `ironcliw.settings.python_match_level` reads it.

    Raises:
        ClusterError: a requirement of the extra `local` is not installed here.
    """
    requirements = _requirements(NEEDED_EXTRA)
    pins = closure(requirements, _look_up)
    training = _requirements(NEEDED_EXTRA, OPTIONAL_EXTRA)
    with contextlib.suppress(ClusterError):  # a head that does not train has workers that do not
        requirements, pins = training, closure(training, _look_up)
    models = model_packages(Catalog().values())
    pins = tuple(sorted({**dict(pins), **models}.items()))
    installed = tuple(f"{name}=={version}" for name, version in sorted(models.items()))
    return HeadVersions(platform.python_version(), match, requirements, pins, installed)


def model_packages(cards: Iterable[ModelCard]) -> dict[str, str]:
    """Packages that models come in, with the version that is installed; absent ones are left out.

    A model of the user's own in a package of the user's own is not among those of the catalogue
    that ships: the image must have it.
    """
    sources = [card.source or "" for card in cards]
    names = {
        source.removeprefix("package:").partition("/")[0]
        for source in sources
        if source.startswith("package:")
    }
    found = {name: _look_up(name) for name in names}
    return {name: installed[0] for name, installed in found.items() if installed is not None}


def _requirements(*extras: str) -> tuple[str, ...]:
    """What the project needs with some extras, without itself: workers get it with each job."""
    declared = importlib.metadata.requires(DISTRIBUTION) or ()
    found = needed(declared, extras)
    return tuple(text for text in found if not text.startswith(f"{DISTRIBUTION}["))


def needed(declared: Iterable[str], extras: Iterable[str]) -> list[str]:
    """The requirements whose markers hold for an extra, as `name[extras]specifier`."""
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, declared):
        marker, requirement.marker = requirement.marker, None
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found.append(str(requirement))
    return sorted(found)


def _look_up(name: str) -> tuple[str, Sequence[str]] | None:
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found.version, found.requires or ()


def closure(
    requirements: Iterable[str], look_up: Callable[[str], tuple[str, Sequence[str]] | None]
) -> tuple[tuple[str, str], ...]:
    """Every distribution that some requirements lead to, with the version that is installed.

    Args:
        requirements: where to begin.
        look_up: version and requirements of an installed distribution, None without it.

    Raises:
        ClusterError: one of `requirements` is not installed; what only they need may be absent.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    first = [Requirement(text) for text in requirements]
    open_ones = [(item, True) for item in first]
    visited: set[tuple[str, frozenset[str]]] = set()
    pins: dict[str, str] = {}
    while open_ones:
        item, wanted = open_ones.pop()
        key = (canonicalize_name(item.name), frozenset(item.extras))
        if key in visited:
            continue
        visited.add(key)
        found = look_up(item.name)
        if found is None and wanted:
            raise ClusterError(
                f"{item} is not installed here, so no worker could be given the same version: "
                f"pip install '{DISTRIBUTION}[{NEEDED_EXTRA}]'"
            )
        if found is not None:
            pins[key[0]], declared = found
            open_ones += [(Requirement(text), False) for text in needed(declared, item.extras)]
    return tuple(sorted(pins.items()))
