"""How Compute Engine is reached: credentials, clients, and calls that end in time.

The library's own retries last ten minutes, and one storm of 503 would hold the autoscaler's loop
for as long; they are switched off, and calls are repeated here within a few seconds.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cluster.gce.answer_time import AnswerTime
from cluster.gce.errors import GceError, of_credentials, of_http, of_silence
from cluster.gce.library import compute_library
from ironcliw.errors import SettingsError, UnsupportedError
from ironcliw.setting_sections import CloudSettings

GOOGLE_ENDPOINT = "compute.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/compute",)
# the private network of the test bed's namespaces
_TEST_BED = ipaddress.ip_network("10.0.0.0/8")
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 2.0
# less time than this is not worth another try: a TLS handshake takes a good part of it
_SHORTEST_TRY = 0.5

# The library's DEBUG records hold whole requests, an insert's metadata and its token with them.
logging.getLogger("google.cloud.compute_v1").setLevel(logging.INFO)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a call may take with all its tries, and that one try may."""

    total: float
    attempt: float

    def within(self, seconds: float) -> Patience:
        """The same, and no more than so many seconds in all."""
        return Patience(min(self.total, seconds), self.attempt)


READ = Patience(total=8.0, attempt=5.0)
WRITE = Patience(total=20.0, attempt=8.0)


def is_test_bed(api_endpoint: str | None) -> bool:
    """Whether the endpoint is called without credentials: plain HTTP to loopback or 10.0.0.0/8.

    Everything else is called with the user's credentials, and over TLS only. An address counts,
    a name does not (but for `localhost`): a name can be made to point anywhere.

    Raises:
        SettingsError: plain HTTP to anywhere else, or no endpoint at all.
    """
    if api_endpoint is None:
        return False
    url = urlsplit(api_endpoint if "://" in api_endpoint else f"https://{api_endpoint}")
    if not url.hostname or url.scheme not in ("http", "https"):
        raise SettingsError(
            f"cloud.api_endpoint is {api_endpoint!r}, which is no URL of a Compute API; unset it "
            "for Google's"
        )
    if url.scheme == "https":
        return False
    if url.hostname == "localhost":
        return True
    try:
        address = ipaddress.ip_address(url.hostname)
    except ValueError:
        address = None
    if address is not None and (address.is_loopback or address in _TEST_BED):
        return True
    raise SettingsError(
        f"cloud.api_endpoint is {api_endpoint!r}: plain HTTP is for a test bed on loopback or in "
        f"{_TEST_BED}; use https, or unset it for Google's"
    )


class Session:
    """Clients of one project at one endpoint, shared by threads.

    Nothing is imported, read or sent before the first call.

    Raises:
        SettingsError: no project, or an endpoint that must not be used.
    """

    def __init__(
        self,
        cloud: CloudSettings,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        if cloud.project is None:
            raise SettingsError("cloud.project is unset: there is no cloud to ask; set it")
        self.project = cloud.project
        self.clock = clock
        self.sleep = sleep
        self._endpoint = cloud.api_endpoint
        self._is_test_bed = is_test_bed(cloud.api_endpoint)
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._credentials: Any = None
        self.listed = AnswerTime()

    def client(self, name: str) -> Any:
        """The client of that class in `google.cloud.compute_v1`, made once.

        Raises:
            GceError: (auth) there are no credentials.
            UnsupportedError: google-cloud-compute is not installed.
        """
        with self._lock:
            if name not in self._clients:
                self._clients[name] = self._make(name)
            return self._clients[name]

    def call(
        self, action: str, client: str, method: str, patience: Patience, **request: Any
    ) -> Any:
        """One call, repeated while nobody answers and time is left.

        Args:
            action: What is done, for messages.
            client: Class of the client.
            method: Its method.
            patience: Seconds in all and for a try.
            **request: Arguments of the method.

        Raises:
            GceError: it failed; `may_exist` where an earlier try was not answered.
        """
        function = getattr(self.client(client), method)
        return self.repeat(
            lambda seconds: attempt(
                action, lambda: function(**request, retry=None, timeout=seconds)
            ),
            patience,
        )

    def repeat(self, one_try: Callable[[float], T], patience: Patience) -> T:
        """The result of the first try that is answered; a try is given its seconds.

        Raises:
            GceError: the last try's.
        """
        deadline = self.clock() + patience.total
        pause = _FIRST_PAUSE
        unanswered = False
        while True:
            remaining = deadline - self.clock()
            try:
                return one_try(max(min(patience.attempt, remaining), _SHORTEST_TRY))
            except GceError as error:
                unanswered = unanswered or error.kind == "unavailable"
                error.may_exist = unanswered
                if error.kind != "unavailable":
                    raise
                if deadline - self.clock() < pause + _SHORTEST_TRY:
                    raise
            # one head has one session: nobody is there to fall into step with
            self.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _make(self, name: str) -> Any:
        compute_v1 = _library()
        from google.api_core.client_options import ClientOptions

        if self._credentials is None:
            self._credentials = self._find_credentials()
        # always said, or the environment of the user could turn it to another one
        options = ClientOptions(api_endpoint=self._endpoint or GOOGLE_ENDPOINT)
        made = getattr(compute_v1, name)
        transport = self.listed.transport(made) if name == "InstancesClient" else None
        return made(credentials=self._credentials, client_options=options, transport=transport)

    def _find_credentials(self) -> Any:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.auth.exceptions import GoogleAuthError

        if self._is_test_bed:
            return AnonymousCredentials()  # type: ignore[no-untyped-call]
        try:
            credentials, _ = google.auth.default(scopes=_SCOPES)
        except GoogleAuthError as error:
            raise of_credentials(f"access to project {self.project}", error) from error
        return credentials


def attempt(action: str, function: Callable[[], T]) -> T:
    """The function's result, with what the libraries raise turned into a `GceError`."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from requests.exceptions import RequestException

    try:
        return function()
    except GoogleAPICallError as error:
        raise of_http(action, error) from error
    except (RequestException, TransportError, ParseError) as error:
        raise of_silence(action, error) from error
    except GoogleAuthError as error:
        if error.retryable:
            raise of_silence(action, error) from error
        raise of_credentials(action, error) from error


def _library() -> Any:
    try:
        return compute_library()
    except ImportError as error:
        raise UnsupportedError(
            "workers in the cloud need google-cloud-compute: pip install 'ironcliw[gcp]'"
        ) from error
