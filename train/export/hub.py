"""Files into a repository of the Hugging Face Hub: all of them in one commit, or none.

`huggingface_hub` does the work. Added is what it leaves to its caller: a repository that exists is
not written into unasked, a request that came too often is made again, and a repository that was
made for an upload which then broke off is removed again, and where a commit's answer was lost it
is looked for before anything is said of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ironcliw.errors import ConflictError, UnavailableError
from ironcliw.retries import one_line
from train.export.hub_errors import LONGEST_WAIT, asked_to_wait, check_repository, translated

Result = TypeVar("Result")

_KEPT = (".gitattributes",)
"""What the Hub itself puts into a repository."""
_ATTEMPTS = 4
_LOOKS = 3
"""At a repository whose commit was not answered."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubCommit:
    """What was published.

    Attributes:
        repository: OWNER/NAME.
        url: Of its page.
        revision: Of the commit.
        private: Whether it was made private; None: it existed, and is as it was.
    """

    repository: str
    url: str
    revision: str
    private: bool | None


def upload(
    folder: Path,
    repository: str,
    message: str,
    *,
    private: bool = True,
    replace: bool = False,
    endpoint: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> HubCommit:
    """Publish a folder's files; the token is huggingface_hub's own (HF_TOKEN, `hf auth login`).

    Args:
        folder: With all that is in its folders.
        repository: OWNER/NAME.
        message: Of the commit.
        private: Of a repository that does not exist yet.
        replace: Where it exists: its files are then exactly these.
        endpoint: None: what HF_ENDPOINT says, else https://huggingface.co.
        sleep: Waits; another one in tests.

    Raises:
        RequestError: the repository's name breaks a rule.
        ConflictError: the repository exists, or was changed while files were sent.
        AuthenticationError: there is no token, or it is not known.
        PermissionDeniedError: the token must not write there.
        OverloadedError: the Hub asks to wait for longer than this call does.
        UnavailableError: the Hub cannot be reached, or broke off; where nobody can tell whether
            the commit was made, it has the code `publication_unknown`.
    """
    from huggingface_hub import HfApi

    check_repository(repository)
    return _Upload(HfApi(endpoint=endpoint), folder, repository, sleep).run(
        message, private=private, replace=replace
    )


class _UnknownError(UnavailableError):
    """The commit may have been made, or not."""

    default_code = "publication_unknown"


class _Upload:
    """One publication."""

    def __init__(
        self, api: Any, folder: Path, repository: str, sleep: Callable[[float], None]
    ) -> None:
        self._api = api
        self._files = {
            file.relative_to(folder).as_posix(): file
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        self._repository = repository
        self._sleep = sleep

    def run(self, message: str, *, private: bool, replace: bool) -> HubCommit:
        made = self._create(private=private, replace=replace)
        try:
            revision = self._commit(message)
        except (_UnknownError, ConflictError):
            raise  # it may be published, or hold somebody else's commit: nothing is removed
        except BaseException as error:
            # also for Ctrl-C: an empty repository is not what was asked for
            state = self._removed() if made else "it is as it was"
            if not isinstance(error, UnavailableError):
                raise
            raise UnavailableError(
                f"{error.message}; nothing is published in {self._repository}: {state}. Run the "
                "same command again"
            ) from error
        url = f"{self._api.endpoint}/{self._repository}"
        return HubCommit(self._repository, url, revision, private if made else None)

    def _create(self, *, private: bool, replace: bool) -> bool:
        """Whether the repository was made now."""
        try:
            self._ask(lambda: self._api.create_repo(self._repository, private=private))
        except ConflictError as error:
            if not replace:
                raise ConflictError(
                    f"{self._repository} exists on {self._api.endpoint}; name another repository, "
                    "or give --replace to put these files in the place of its own",
                    code="repository_exists",
                ) from error
            return False
        return True

    def _commit(self, message: str) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        info = self._ask(lambda: self._api.model_info(self._repository))
        names = self._files.keys()
        old = {each.rfilename for each in info.siblings or ()} - names - set(_KEPT)

        def commit() -> str:
            # the operations keep what was sent, and cannot be used twice
            added = [CommitOperationAdd(name, str(file)) for name, file in self._files.items()]
            deleted = [CommitOperationDelete(name) for name in sorted(old)]
            found = self._api.create_commit(
                self._repository,
                [*added, *deleted],
                commit_message=message,
                # nobody else's commit in between is overwritten
                parent_commit=info.sha,
            )
            return str(found.oid)

        try:
            return self._ask(commit)
        except UnavailableError as error:
            # an answer can be lost after the commit was made
            return self._landed(names, str(info.sha), error)

    def _landed(self, names: Collection[str], before: str, error: UnavailableError) -> str:
        """The revision, if all files are there by a newer one.

        Raises:
            UnavailableError: `error` where the repository is as it was, another one where that
                cannot be told.
        """
        for attempt in range(1, _LOOKS + 1):
            try:
                info = self._api.model_info(self._repository)
                break
            except Exception as lost:  # noqa: BLE001  # the Hub's boundary: nothing is known then
                logger.warning("%s cannot be looked at: %s", self._repository, one_line(lost))
                if attempt == _LOOKS:
                    raise self._unknown(error) from error
                self._sleep(2.0**attempt)
        if info.sha == before:
            raise error
        if {each.rfilename for each in info.siblings or ()} >= set(names):
            return str(info.sha)
        raise self._unknown(error) from error  # somebody else has changed it

    def _unknown(self, error: UnavailableError) -> _UnknownError:
        page = f"{self._api.endpoint}/{self._repository}"
        return _UnknownError(
            f"{error.message}; whether the files are published in {self._repository} is not known: "
            f"look at {page}. If they are not there, run the same command again, with --replace "
            "where the repository is"
        )

    def _removed(self) -> str:
        """Remove the repository, and say in words what became of it."""
        try:
            self._api.delete_repo(self._repository)
        except Exception as error:  # noqa: BLE001  # the Hub's boundary: the first error is told
            logger.warning(
                "%s was made for this upload and cannot be removed (%s): remove it on its page",
                self._repository,
                one_line(error),
            )
            return "the repository made for it could not be removed; do so on its page"
        return "the repository made for it is removed again"

    def _ask(self, operation: Callable[[], Result]) -> Result:
        """Ask the Hub; again where it says that there were too many requests."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return operation()
            except Exception as error:  # the client raises its own, httpx2's and bare classes
                wait = asked_to_wait(error, attempt)
                if wait is None or attempt == _ATTEMPTS or wait > LONGEST_WAIT:
                    where = f"{self._repository} on {self._api.endpoint}"
                    raise translated(error, where, wait) from error
                logger.warning("the Hub asks to wait: again in %.0f s", wait)
                self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")
