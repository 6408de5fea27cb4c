"""Every error the project raises on purpose.

    IroncliwError
    |-- SettingsError (ValueError)        a setting is missing, malformed or contradicts another
    |-- DataError (ValueError)            training data cannot be used; names file and line
    |-- RequestError (ValueError)         400  the request breaks a rule; `param` names the field
    |   |-- ContextLengthError            400  more tokens than the model can read
    |   `-- RequestTooLargeError          413  more bytes, items or tokens than the limits allow
    |-- AuthenticationError               401  no API key, or one that is not known
    |-- PermissionDeniedError             403  the API key lacks the scope
    |-- NotFoundError                     404  no such route or object
    |   `-- ModelNotFoundError            404  no such model; the message names the known ones
    |-- MethodNotAllowedError             405  the route exists, the method does not
    |-- DeadlineExceededError             408  the request ran past its deadline
    |-- ConflictError                     409  the object is in use, or exists already
    |-- OverloadedError                   429  the queue is full; carries `retry_after` seconds
    |-- UnsupportedError                  501  known, but not built (yet) or not on this machine
    |-- UnavailableError                  503  nobody can answer now; carries `retry_after` seconds
    |   `-- MemoryBudgetError             503  loading would pass the memory budget
    |-- ModelLoadError                    500  the model's files are absent, damaged or unsupported
    |   `-- AdapterError                  400  an adapter's files, or not an adapter of this model
    |-- StoreError                             the state store cannot be used
    |   |-- NewerFormatError                   stored by a newer release than this one
    |   |-- LeaseLostError                     another process leads now, this one may not write
    |   `-- CheckpointError                    a checkpoint cannot be written, read or used
    |       |-- DamagedCheckpointError         its bytes are not those that were written
    |       |-- OtherModelError                it belongs to another model
    |       `-- InexactResumeError             going on from it would give other bits
    |-- AgentError                      500  an agent's method failed; its own words are repeated
    |-- TrainingError                          a run of training cannot go on
    `-- ClusterError                           the Ray head could not be started, joined or stopped
        |-- PortInUseError                     somebody else listens on a port we need
        `-- NotRunningError                    no head runs for this state directory

Errors travel between processes, so each is rebuilt from its arguments when unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar


class IroncliwError(Exception):
    """Root of the tree: catch this to catch every error raised on purpose.

    Args:
        message: What was given, which rule it broke, what to do.
        param: The request field at fault, when there is one.
        code: A word for programs; each class has a default.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._state())

    def _state(self) -> dict[str, Any]:
        return {"param": self.param, "code": self.code}

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error as the OpenAI API writes it: `{"error": {message, type, param, code}}`."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to the error."""
        return {}


def _rebuild(cls: type[IroncliwError], message: str, state: dict[str, Any]) -> IroncliwError:
    return cls(message, **state)


class SettingsError(IroncliwError, ValueError):
    """A setting is missing, malformed or contradicts another."""

    default_code = "invalid_settings"


class DataError(IroncliwError, ValueError):
    """The training data cannot be used.

    Args:
        message: The first problems, each with its file and line.
        param: Not used.
        code: A word for programs.
        counts: How often each rule is broken.
    """

    default_code = "invalid_data"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.counts = dict(counts or {})

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "counts": self.counts}


class RequestError(IroncliwError, ValueError):
    """The request breaks a rule that its sender can keep."""

    status = 400
    kind = "invalid_request_error"
    default_code = "invalid_value"


class ContextLengthError(RequestError):
    """More tokens than the model can read."""

    default_code = "context_length_exceeded"


class RequestTooLargeError(RequestError):
    """More bytes, items or tokens than the limits allow."""

    status = 413
    default_code = "request_too_large"


class AuthenticationError(IroncliwError):
    """No API key where one is needed, or one that is not known."""

    status = 401
    kind = "authentication_error"
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer"}


class PermissionDeniedError(IroncliwError):
    """The API key is known and lacks the scope."""

    status = 403
    kind = "permission_error"
    default_code = "insufficient_scope"


class NotFoundError(IroncliwError):
    """No such route or object."""

    status = 404
    kind = "invalid_request_error"
    default_code = "not_found"


class ModelNotFoundError(NotFoundError):
    """No such model in the catalogue."""

    default_code = "model_not_found"


class MethodNotAllowedError(IroncliwError):
    """The route exists, the method does not."""

    status = 405
    kind = "invalid_request_error"
    default_code = "method_not_allowed"


class DeadlineExceededError(IroncliwError):
    """The request ran past its deadline."""

    status = 408
    kind = "timeout_error"
    default_code = "deadline_exceeded"


class ConflictError(IroncliwError):
    """The object is in use, or exists already."""

    status = 409
    kind = "invalid_request_error"
    default_code = "conflict"


class _RetryableError(IroncliwError):
    """An error that says when to come back."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float = 1.0,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after = retry_after

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "retry_after": self.retry_after}

    def headers(self) -> dict[str, str]:
        # RFC 9110 section 10.2.3 allows whole seconds only; the openai client reads
        # retry-after-ms first
        return {
            "retry-after": str(max(1, math.ceil(self.retry_after))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after * 1000))),
        }


class OverloadedError(_RetryableError):
    """The queue is full, or the deadline cannot be met: nothing was started."""

    status = 429
    kind = "rate_limit_error"
    default_code = "overloaded"


class UnsupportedError(IroncliwError):
    """Known, but not built (yet) or not on this machine."""

    status = 501
    kind = "invalid_request_error"
    default_code = "unsupported"


class UnavailableError(_RetryableError):
    """Nobody can answer now."""

    status = 503
    default_code = "unavailable"


class MemoryBudgetError(UnavailableError):
    """Loading the model would pass the memory budget."""

    default_code = "memory_budget"


class ModelLoadError(IroncliwError):
    """The model's files are absent, damaged or of a kind that is not supported."""

    default_code = "model_load_failed"

    def headers(self) -> dict[str, str]:
        # the openai client sends a 500 again, and the files will be the same
        return {"x-should-retry": "false"}


class AdapterError(ModelLoadError):
    """An adapter's files are absent, damaged or of another kind or model: ask for another one."""

    status = 400
    kind = "invalid_request_error"
    default_code = "adapter_load_failed"


class StoreError(IroncliwError):
    """The state store cannot be used."""

    default_code = "store_error"


class NewerFormatError(StoreError):
    """Stored by a newer release than this one."""

    default_code = "newer_format"


class LeaseLostError(StoreError):
    """Another process leads now; this one may not write any more."""

    default_code = "lease_lost"


class CheckpointError(StoreError):
    """A checkpoint cannot be written, read or used."""

    default_code = "checkpoint_error"


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's bytes are not those that were written, or some are missing."""

    default_code = "checkpoint_damaged"


class OtherModelError(CheckpointError):
    """The checkpoint belongs to another model than the one that is trained."""

    default_code = "checkpoint_of_other_model"


class InexactResumeError(CheckpointError):
    """Going on from the checkpoint here would give other bits than where it was saved."""

    default_code = "inexact_resume"


class AgentError(IroncliwError):
    """A method of an agent failed; the message repeats what it raised."""

    default_code = "agent_failed"


class TrainingError(IroncliwError):
    """A run of training cannot go on; what it had reached is saved."""

    default_code = "training_failed"


class ClusterError(IroncliwError):
    """The Ray head could not be started, joined or stopped."""

    default_code = "cluster_error"


class PortInUseError(ClusterError):
    """Somebody else listens on a port we need."""

    default_code = "port_in_use"


class NotRunningError(ClusterError):
    """No head runs for this state directory."""

    default_code = "not_running"
