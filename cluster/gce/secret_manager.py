"""Reads a secret of the project as this machine's account, for a check: workers read it themselves.

One call of Secret Manager's REST API, since the client library is no dependency:
https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import httpx

ENDPOINT = "https://secretmanager.googleapis.com/v1"
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_TIMEOUT_SECONDS = 5.0


def google_bearer() -> str | None:
    """An access token of Google's application default credentials; None: there are none."""
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests as transport
    except ImportError:
        return None
    try:
        found, _ = google.auth.default(scopes=_SCOPES)
        found.refresh(transport.Request())  # type: ignore[no-untyped-call]
    except google.auth.exceptions.GoogleAuthError:
        return None
    return str(found.token)


def read_secret(
    project: str,
    name: str,
    *,
    url: str = ENDPOINT,
    bearer: Callable[[], str | None] = google_bearer,
) -> str | None:
    """The latest version of a secret, without the white space around it.

    Args:
        project: Of GCP.
        name: Of the secret.
        url: Of Secret Manager, to the version of its API.
        bearer: An access token.

    Returns:
        None where it cannot be read: the head's account need not have the right to.
    """
    token = bearer()
    if token is None:
        return None
    try:
        response = httpx.get(
            f"{url}/projects/{project}/secrets/{name}/versions/latest:access",
            headers={"authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_SECONDS,
        )
        response.raise_for_status()
        return base64.b64decode(response.json()["payload"]["data"]).decode("utf-8").strip()
    except (httpx.HTTPError, binascii.Error, ValueError, KeyError, TypeError):
        return None
