"""The time of an answer by the cloud's own clock: the `Date` header of a list of machines.

Money is counted by it: this machine sleeps, people set its clock, and it may be wrong.
The library hands headers to interceptors alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import import_module
from typing import Any

from cluster.gce.library import PACKAGE


class AnswerTime:
    """When the last list of machines of this thread was answered."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def last(self) -> datetime | None:
        """By the answering server; None where its answer did not say."""
        at: datetime | None = getattr(self._of_thread, "at", None)
        return at

    def read(self, headers: Sequence[tuple[str, Any]]) -> None:
        """Take in the headers of an answer."""
        text = next((str(value) for name, value in headers if name.lower() == "date"), "")
        self._of_thread.at = http_date(text)

    def transport(self, client: Any) -> Callable[..., Any]:
        """What makes the transport of a client of machines, given its options."""
        rest = import_module(f"{PACKAGE}.services.instances.transports.rest")
        times = self

        class Interceptor(rest.InstancesRestInterceptor):  # type: ignore[misc, name-defined]
            """Sees every answer before the client does."""

            def post_aggregated_list_with_metadata(
                self, response: Any, metadata: Sequence[tuple[str, Any]]
            ) -> tuple[Any, Sequence[tuple[str, Any]]]:
                times.read(metadata)
                return response, metadata

        return partial(client.get_transport_class("rest"), interceptor=Interceptor())


def http_date(text: str) -> datetime | None:
    """The moment that a `Date` header names, in UTC; None where it names none.

    >>> http_date("Sun, 22 Nov 2026 16:00:00 GMT")
    datetime.datetime(2026, 11, 22, 16, 0, tzinfo=datetime.timezone.utc)
    """
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, TypeError):
        return None
