"""What `up` prints: where everything is, and three examples to copy."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from cluster.head.record import HeadRecord
from ironcliw.settings import Settings, is_on_path

_KEY = "icw-..."
_TEXT = "turn off the lights"


def welcome(settings: Settings, record: HeadRecord, *, started: bool, seconds: float) -> str:
    """The text after a start, or after joining a head that runs already."""
    url = record.base_url
    verb = f"ready in {seconds:.1f} s" if started else "already running"
    examples = "\n\n".join(_examples(settings, url))
    return f"""
Ironcliw is {verb}

  API        {url}/v1   (interactive: {url}/docs)
  Dashboard  {record.dashboard_url}
  Logs       {settings.state_dir / "logs"}   (head, deployment)
             {settings.ray_temp_dir / "session_latest" / "logs"}   (service)

Try it:

{examples}

For `ray job submit` and the other Ray tools:

  eval "$(ironcliw env)"
"""


def _examples(settings: Settings, url: str) -> list[str]:
    model = next(iter(settings.serve.pinned_models), "all-MiniLM-L6-v2")
    needs_key = settings.serve.auth == "required" or not settings.is_loopback
    body = shlex.quote(json.dumps({"model": model, "input": _TEXT}))
    key_header = f" -H 'authorization: Bearer {_KEY}'" if needs_key else ""
    key_variable = f"IRONCLIW_CLIENT__API_KEY={_KEY} " if needs_key else ""
    # the lines of a quoted script start at the margin: Python refuses an indented one
    script = (
        "from openai import OpenAI\n"
        f"client = OpenAI(base_url={json.dumps(url + '/v1')}, "
        f"api_key={json.dumps(_KEY if needs_key else 'none')})\n"
        f'print(client.embeddings.create(model={json.dumps(model)}, input="hello").usage)'
    )
    address = shlex.quote(url + "/v1/embeddings")
    lines = [
        f"  curl -s {address} -H 'content-type: application/json'{key_header} \\\n    -d {body}",
        f'  {key_variable}ironcliw embed "{_TEXT}" "what is the weather tomorrow"',
        f"  python -c {shlex.quote(script)}",
    ]
    return [*_activation(), *lines]


def _activation() -> list[str]:
    """The line that puts this virtual environment on the PATH, unless it is there already."""
    programs = Path(sys.prefix) / "bin"
    if sys.prefix == sys.base_prefix or is_on_path(programs):
        return []
    return [f"  source {shlex.quote(str(programs / 'activate'))}"]
