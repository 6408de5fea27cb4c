"""Ray's job service of the head, as the train step sees it."""

from __future__ import annotations

import time

from ray.job_submission import JobStatus, JobSubmissionClient

from actors.steps.train_job import JobState
from ironcliw.errors import ClusterError

_STATES = {
    JobStatus.PENDING: JobState.RUNNING,
    JobStatus.RUNNING: JobState.RUNNING,
    JobStatus.SUCCEEDED: JobState.SUCCEEDED,
    JobStatus.FAILED: JobState.FAILED,
    JobStatus.STOPPED: JobState.FAILED,
}
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.2


class RayJobs:
    """Asks the head's dashboard; the token is found where Ray's own tools find it.

    Args:
        address: Of the dashboard.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        # made at first use, since it asks the dashboard for its version
        self._made: JobSubmissionClient | None = None

    def state(self, job: str) -> JobState:
        """Of one job."""
        try:
            return _STATES[self._client.get_job_status(job)]
        except RuntimeError as error:
            # Ray has one class for every answer that is no success
            if "404" in str(error) or "does not exist" in str(error):
                return JobState.ABSENT
            raise ConnectionError(str(error)) from error

    def submit(self, job: str, command: str) -> None:
        """Start one; harmless where it exists.

        Raises:
            ClusterError: Ray refuses it.
        """
        try:
            self._client.submit_job(entrypoint=command, submission_id=job)
        except (RuntimeError, ValueError) as error:
            if self.state(job) is JobState.ABSENT:
                raise ClusterError(f"Ray does not take job {job}: {error}") from error

    def stop(self, job: str) -> None:
        """End one and wait until it has ended, but not for ever."""
        try:
            self._client.stop_job(job)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error
        deadline = time.monotonic() + _STOP_SECONDS
        while self.state(job) is JobState.RUNNING and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def output(self, job: str) -> str:
        """What it printed."""
        text: str = self._client.get_job_logs(job)
        return text

    @property
    def _client(self) -> JobSubmissionClient:
        if self._made is None:
            self._made = JobSubmissionClient(self._address)
        return self._made
