"""Requests as clients of GCS's JSON interface send them, and its answers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.unit.train.checkpoint.object_server import Answer, Objects, Request


def answer(objects: Objects, request: Request) -> Answer:
    """Of `/storage/v1/b/BUCKET/o...` and `/upload/storage/v1/b/BUCKET/o`."""
    from tests.unit.train.checkpoint.object_server import Answer

    upload, bucket, key = _place(request.path)
    if upload:
        return _upload(objects, request, bucket)
    if key is None:
        if request.path.endswith("/o") and request.method == "GET":
            return _json(_listing(objects, bucket, request))
        return _json({"kind": "storage#bucket", "id": bucket, "name": bucket})
    if request.method == "DELETE":
        return Answer(204) if objects.content.pop(key, None) is not None else _missing(key)
    if key not in objects.content:
        return _missing(key)
    if request.query.get("alt") == "media":
        return _media(objects, request, key)
    return _json(_resource(objects, bucket, key))


def _place(path: str) -> tuple[bool, str, str | None]:
    match = re.fullmatch(r"(/upload)?/storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?", path)
    assert match is not None, path
    return match[1] is not None, match[2], match[3]


def _upload(objects: Objects, request: Request, bucket: str) -> Answer:
    from tests.unit.train.checkpoint.object_server import Answer

    kind, upload = request.query.get("uploadType"), request.query.get("upload_id")
    if upload is not None:
        return _resumed(objects, request, bucket, upload)
    if kind == "multipart":
        boundary = re.search(r"boundary=\"?([^\";]+)", request.headers["content-type"])
        assert boundary is not None
        _, first, second, _ = request.body.split(b"--" + boundary[1].encode())
        meta = json.loads(first.partition(b"\r\n\r\n")[2])
        name = request.query.get("name") or meta["name"]
        content = second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        return _stored(objects, bucket, name, content, meta.get("metadata"))
    if kind == "media":
        return _stored(objects, bucket, request.query["name"], request.body)
    if kind == "resumable":
        meta = json.loads(request.body or b"{}")
        name = request.query.get("name") or meta["name"]
        upload = f"{secrets.token_hex(4)}:{name}"
        objects.uploads[upload] = {0: b""}
        address = f"http://127.0.0.1:{objects.port}{request.path}?uploadType=resumable"
        return Answer(200, b"", {"Location": f"{address}&upload_id={upload}"})
    return Answer(501)


def _resumed(objects: Objects, request: Request, bucket: str, upload: str) -> Answer:
    """https://cloud.google.com/storage/docs/performing-resumable-uploads"""
    from tests.unit.train.checkpoint.object_server import Answer

    if upload not in objects.uploads:
        return Answer(404)
    parts = objects.uploads[upload]
    given = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers["content-range"])
    assert given is not None, request.headers
    if given[1] is not None:
        parts[0] = parts[0][: int(given[1])] + request.body
    if given[3] != "*" and len(parts[0]) == int(given[3]):
        return _stored(objects, bucket, upload.partition(":")[2], objects.uploads.pop(upload)[0])
    have = {"Range": f"bytes=0-{len(parts[0]) - 1}"} if parts[0] else {}
    return Answer(308, b"", have)


def _stored(
    objects: Objects,
    bucket: str,
    key: str,
    content: bytes,
    metadata: dict[str, str] | None = None,
) -> Answer:
    objects.content[key] = content
    objects.metadata[key] = metadata or {}
    objects.modified[key] = time.time()
    return _json(_resource(objects, bucket, key))


def _media(objects: Objects, request: Request, key: str) -> Answer:
    from tests.unit.train.checkpoint.object_server import Answer

    content = objects.content[key]
    headers = {"Content-Type": "application/octet-stream", "x-goog-generation": "1"}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if wanted is None:
        return Answer(200, content, headers)
    first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
    if first >= len(content):
        return Answer(416)
    headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
    return Answer(206, content[first : last + 1], headers)


def _listing(objects: Objects, bucket: str, request: Request) -> dict[str, Any]:
    prefix, start = request.query.get("prefix", ""), request.query.get("pageToken", "")
    keys = sorted(key for key in objects.content if key.startswith(prefix) and key > start)
    pages = 2  # so that clients have to turn them
    items = [_resource(objects, bucket, key) for key in keys[:pages]]
    more = {"nextPageToken": keys[pages - 1]} if len(keys) > pages else {}
    return {"kind": "storage#objects", "items": items, **more}


def _resource(objects: Objects, bucket: str, key: str) -> dict[str, Any]:
    content = objects.content[key]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(objects.modified[key]))
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{key}/1",
        "name": key,
        "bucket": bucket,
        "generation": "1",
        "metageneration": "1",
        "size": str(len(content)),
        "md5Hash": base64.b64encode(digest).decode(),
        "timeCreated": moment,
        "updated": moment,
        "storageClass": "STANDARD",
        # by one of these Arrow's client knows what it made as a folder
        "metadata": objects.metadata.get(key, {}),
    }


def _missing(key: str) -> Answer:
    from tests.unit.train.checkpoint.object_server import Answer

    error = {"error": {"code": 404, "message": f"No such object: {key}"}}
    return Answer(404, json.dumps(error).encode(), {"Content-Type": "application/json"})


def _json(values: dict[str, Any]) -> Answer:
    from tests.unit.train.checkpoint.object_server import Answer

    return Answer(200, json.dumps(values).encode(), {"Content-Type": "application/json"})
