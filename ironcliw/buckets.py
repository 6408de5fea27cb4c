"""From a URI to a file system of Arrow: its own clients for S3 and GCS, fsspec's for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from ironcliw.errors import StoreError

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
CLIENT_RETRY_SECONDS = 20.0
"""So long GCS's client goes on by itself before its error is ours; its default is 15 minutes."""
_OPTIONS = {"region", "scheme", "endpoint_override"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A place in a bucket.

    Attributes:
        system: A `pyarrow.fs.FileSystem`.
        root: Path in it, without a slash at its end.
        shown: URI for messages, without credentials and options.
    """

    system: Any = field(repr=False)
    root: str
    shown: str

    def list_files(self) -> list[Any]:
        """`pyarrow.fs.FileInfo` of every object below; none where there is nothing."""
        from pyarrow import fs

        selector = fs.FileSelector(self.root, recursive=True, allow_not_found=True)
        return [info for info in self.system.get_file_info(selector) if info.is_file]


def connect(uri: str) -> Bucket:
    """A client for a URI; nothing is asked of the service yet.

    S3 and GCS find credentials as their own tools do. For a service that speaks like them, the URI
    takes options: `s3://KEY:SECRET@bucket/path?endpoint_override=HOST:PORT&scheme=http&region=R`,
    and `gs://anonymous@bucket/path?endpoint_override=...`.

    Raises:
        StoreError: the URI names no bucket, has an unknown option or an unknown scheme, or the
            client is not installed.
    """
    parts = urlsplit(uri)
    try:
        import pyarrow.fs  # noqa: F401

        maker = {"s3": _s3, "gs": _gcs, "gcs": _gcs}.get(parts.scheme)
        return maker(parts, _options(parts)) if maker else _fsspec(uri)
    # OSError: the region of a bucket on AWS is asked for
    except (ImportError, OSError, ValueError) as error:
        raise StoreError(
            f"{_shown(parts)} cannot be used: {error}; give a folder, s3://, gs:// or another URI "
            "that fsspec knows, and install ironcliw[train] for its clients"
        ) from error


def below(uri: str, name: str) -> str:
    """The URI or path of something in a folder; a URI's options stay at its end."""
    place, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def shown(uri: str) -> str:
    """A URI or path for messages, without credentials and options."""
    return _shown(urlsplit(uri)) if "://" in uri else uri


def _s3(parts: SplitResult, options: dict[str, str]) -> Bucket:
    from pyarrow import fs

    bucket, root = _bucket_and_root(parts)
    given: dict[str, Any] = dict(options)
    if parts.username:
        given["access_key"] = unquote(parts.username)
        given["secret_key"] = unquote(parts.password or "")
    if not {"region", "endpoint_override"} & given.keys():
        given["region"] = fs.resolve_s3_region(bucket)
    system = fs.S3FileSystem(
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        # one attempt: those that follow are ours, with a longer back-off and a line in the log
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        **given,
    )
    return Bucket(system, root, _shown(parts))


def _gcs(parts: SplitResult, options: dict[str, str]) -> Bucket:
    from pyarrow import fs

    _, root = _bucket_and_root(parts)
    options.pop("region", None)
    system = fs.GcsFileSystem(
        anonymous=parts.username == "anonymous",
        retry_time_limit=timedelta(seconds=CLIENT_RETRY_SECONDS),
        **options,
    )
    return Bucket(system, root, _shown(parts))


def _fsspec(uri: str) -> Bucket:
    import fsspec
    from pyarrow import fs

    find: Callable[[str], tuple[Any, str]] = fsspec.core.url_to_fs
    system, root = find(uri)
    wrapped = fs.PyFileSystem(fs.FSSpecHandler(system))
    return Bucket(wrapped, root.rstrip("/"), _shown(urlsplit(uri)))


def _bucket_and_root(parts: SplitResult) -> tuple[str, str]:
    bucket = parts.netloc.rpartition("@")[2]
    if not bucket:
        raise ValueError("it names no bucket")
    return bucket, f"{bucket}/{parts.path.strip('/')}".rstrip("/")


def _options(parts: SplitResult) -> dict[str, str]:
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if unknown := options.keys() - _OPTIONS:
        raise ValueError(f"it has the options {sorted(unknown)}, known are {sorted(_OPTIONS)}")
    return options


def _shown(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
