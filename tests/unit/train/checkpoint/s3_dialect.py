"""Requests as S3's clients send them, and its answers."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from email.utils import formatdate
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from tests.unit.train.checkpoint.object_server import Answer, Objects, Request

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_CODES = {
    400: "RequestTimeout",
    403: "AccessDenied",
    404: "NoSuchBucket",
    500: "InternalError",
    503: "SlowDown",
}


def error(status: int) -> bytes:
    """The body of an answer that tells an error."""
    code = _CODES.get(status, "Other")
    return f"{_XML}<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()


def answer(objects: Objects, request: Request) -> Answer:
    """Of `/bucket/key` and `/bucket`."""
    from tests.unit.train.checkpoint.object_server import Answer

    bucket, _, key = request.path.lstrip("/").partition("/")
    body = _decoded(request)
    if not key:
        if request.method == "HEAD":
            return Answer()
        if request.method == "POST" and "delete" in request.query:
            return _xml("DeleteResult", _delete_many(objects, body))
        if request.method == "GET" and "list-type" in request.query:
            return _xml("ListBucketResult", _listing(objects, bucket, request))
        return Answer(501)
    if "uploads" in request.query:
        upload = secrets.token_hex(8)
        objects.uploads[upload] = {}
        inner = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
        return _xml("InitiateMultipartUploadResult", inner)
    if "uploadId" in request.query:
        return _part(objects, request, key, body)
    return _object(objects, request, key, body)


def _object(objects: Objects, request: Request, key: str, body: bytes) -> Answer:
    from tests.unit.train.checkpoint.object_server import Answer

    if request.method == "PUT":
        _store(objects, key, body)
        return Answer(headers={"ETag": _etag(body)})
    if request.method == "DELETE":
        objects.content.pop(key, None)
        return Answer(204)
    found = objects.content.get(key)
    if found is None:
        missing = _XML + "<Error><Code>NoSuchKey</Code></Error>"
        return Answer(404, b"" if request.method == "HEAD" else missing.encode())
    headers = {
        "ETag": _etag(found),
        "Last-Modified": formatdate(objects.modified[key], usegmt=True),
        "Content-Type": "application/octet-stream",
    }
    if request.method == "HEAD":
        return Answer(200, b"", headers, len(found))
    if request.method != "GET":
        return Answer(501)
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if wanted is None:
        return Answer(200, found, headers)
    first, last = int(wanted[1]), int(wanted[2] or len(found) - 1)
    headers["Content-Range"] = f"bytes {first}-{min(last, len(found) - 1)}/{len(found)}"
    return Answer(206, found[first : last + 1], headers)


def _part(objects: Objects, request: Request, key: str, body: bytes) -> Answer:
    from tests.unit.train.checkpoint.object_server import Answer

    upload = request.query["uploadId"]
    if upload not in objects.uploads:
        return Answer(404, f"{_XML}<Error><Code>NoSuchUpload</Code></Error>".encode())
    if request.method == "PUT":
        objects.uploads[upload][int(request.query["partNumber"])] = body
        return Answer(headers={"ETag": _etag(body)})
    parts = objects.uploads.pop(upload)
    if request.method == "DELETE":
        return Answer(204)
    content = b"".join(parts[number] for number in sorted(parts))
    _store(objects, key, content)
    return _xml("CompleteMultipartUploadResult", f"<ETag>{escape(_etag(content))}</ETag>")


def _store(objects: Objects, key: str, content: bytes) -> None:
    objects.content[key] = content
    objects.modified[key] = time.time()


def _delete_many(objects: Objects, body: bytes) -> str:
    keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
    for key in keys:
        objects.content.pop(key, None)
    return "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)


def _listing(objects: Objects, bucket: str, request: Request) -> str:
    prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter")
    # two a page, so that clients have to turn it
    start, pages = request.query.get("continuation-token", ""), 2
    keys = sorted(key for key in objects.content if key.startswith(prefix) and key > start)
    entries, folders = [], set()
    for key in keys[:pages]:
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            continue
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(objects.modified[key]))
        entries.append(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{moment}</LastModified>"
            f"<Size>{len(objects.content[key])}</Size></Contents>"
        )
    prefixes = [f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in sorted(folders)]
    more = len(keys) > pages
    last = escape(keys[pages - 1]) if more else ""
    token = f"<NextContinuationToken>{last}</NextContinuationToken>"
    return (
        f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
        f"<KeyCount>{len(keys[:pages])}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        f"{token if more else ''}{''.join(entries)}{''.join(prefixes)}"
    )


def _decoded(request: Request) -> bytes:
    """Without the frames of `aws-chunked`: hexadecimal length, line end, bytes, line end."""
    if "aws-chunked" not in request.headers.get("content-encoding", ""):
        return request.body
    place, pieces = 0, []
    while True:
        end = request.body.index(b"\r\n", place)
        size = int(request.body[place:end].split(b";")[0], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(request.body[end + 2 : end + 2 + size])
        place = end + 2 + size + 2


def _xml(name: str, inner: str) -> Answer:
    from tests.unit.train.checkpoint.object_server import Answer

    text = f'{_XML}<{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{name}>'
    return Answer(200, text.encode(), {"Content-Type": "application/xml"})


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
