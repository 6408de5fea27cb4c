"""The project's own code for the workers in the cloud.

A worker has Python, Ray and the third-party pins from its image; what changes daily comes from the
head: one small archive in the key-value store of Ray's control service, under an address made from
its content, which Ray unpacks on each machine that a replica starts on (`py_modules` of a runtime
environment). It is made from the packages as they are imported here, so that an editable install
and a wheel both work, and nothing else of the folder around them travels.

Ray deletes such a package when the last actor that names it ends, so for a service that sleeps it
must be held: `hold` takes a reference that ends by itself, and whoever needs it renews that.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import io
import logging
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ironcliw.errors import ClusterError

logger = logging.getLogger(__name__)

PACKAGES = ("actors", "cluster", "ironcliw", "native_ops", "serve")
"""What replicas and steps import. Compiled kernels are of a distribution of their own."""
# Unix time zero of the format: the same files must give the same archive.
_DATE = (1980, 1, 1, 0, 0, 0)
_HELD_SECONDS = 600
_RENEW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ProjectCode:
    """The packages as an archive.

    Attributes:
        uri: For `py_modules` of a runtime environment.
        data: A ZIP file.
    """

    uri: str
    data: bytes = field(repr=False)


def pack(packages: Iterable[str] = PACKAGES) -> ProjectCode:
    """The Python files of some packages, as installed here.

    Raises:
        ClusterError: one of them is not installed, or is no package.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in sorted(packages):
            for name, path in sorted(_files(package).items()):
                entry = zipfile.ZipInfo(name, _DATE)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    return ProjectCode(f"gcs://ironcliw_{hashlib.sha256(data).hexdigest()[:32]}.zip", data)


def _files(package: str) -> dict[str, Path]:
    """Path in the archive -> file.

    A package without `__init__.py` may lie in several folders; Python takes each module from the
    first that has it.
    """
    found = importlib.util.find_spec(package)
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise ClusterError(
            f"package {package!r} is no folder that Python finds on this machine, so workers could "
            "not be given it: install it, and where it is one file make a package of it"
        )
    files: dict[str, Path] = {}
    for folder in map(Path, folders):
        for path in folder.rglob("*.py"):
            files.setdefault(Path(package, path.relative_to(folder)).as_posix(), path)
    return files


def publish(code: ProjectCode) -> None:
    """Put the archive where workers find it, and hold it; needs a connection to Ray.

    Raises:
        ClusterError: Ray's control service did not take it.
    """
    from ray._private.runtime_env.packaging import upload_package_to_gcs

    try:
        if not is_published(code):
            upload_package_to_gcs(code.uri, code.data)
            logger.info("the code for workers has %.2f MB", len(code.data) / 1e6)
    except RuntimeError as error:
        raise ClusterError(
            f"the code for workers could not be stored in Ray's control service: {error}; is its "
            "disk full?"
        ) from error
    hold(code.uri)


def is_published(code: ProjectCode) -> bool:
    """Whether workers can have this very code; needs a connection to Ray."""
    return exists(code.uri)


def exists(uri: str) -> bool:
    """Whether Ray's control service has an archive; needs a connection to Ray."""
    from ray._private.runtime_env.packaging import package_exists

    return bool(package_exists(uri))


def fetch(uri: str) -> bytes | None:
    """An archive as workers are given it; None: Ray's control service has it no more."""
    from ray.experimental.internal_kv import _internal_kv_get

    data: bytes | None = _internal_kv_get(uri)
    return data


def hold(uri: str) -> None:
    """Have Ray keep a package for ten minutes, also while no process uses it."""
    from ray._private.runtime_env.packaging import pin_runtime_env_uri

    pin_runtime_env_uri(uri, expiration_s=_HELD_SECONDS)


async def keep(
    uri: str, renew_seconds: float = _RENEW_SECONDS, packages: Iterable[str] = PACKAGES
) -> None:
    """Hold an archive for as long as this runs, also over a restart of the control service."""
    from ray.exceptions import RayError

    while True:
        try:
            await asyncio.to_thread(_renew, uri, packages)
        except (RuntimeError, RayError, OSError, ClusterError) as error:
            # the control service restarts; at the next round it is there again
            logger.warning("the code for workers is not held for now: %s", error)
        await asyncio.sleep(renew_seconds)


def _renew(uri: str, packages: Iterable[str] = PACKAGES) -> None:
    if exists(uri):
        hold(uri)
    elif (code := pack(packages)).uri == uri:
        publish(code)
    else:
        logger.error(
            "the code that workers were to run is gone, and this machine has another now: "
            "`ironcliw down`, then `ironcliw up`"
        )
