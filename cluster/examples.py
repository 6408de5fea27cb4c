"""What `up` prints: where everything is, and three examples to copy."""

from __future__ import annotations

from cluster.record import HeadRecord
from ironcliw.settings import Settings


def welcome(settings: Settings, record: HeadRecord, *, started: bool, seconds: float) -> str:
    """The text after a start, or after joining a head that runs already."""
    url = record.base_url
    model = next(iter(settings.serve.pinned_models), "all-MiniLM-L6-v2")
    verb = f"ready in {seconds:.1f} s" if started else "already running"
    return f"""
Ironcliw is {verb}

  API        {url}/v1   (interactive: {url}/docs)
  Dashboard  {record.dashboard_url}
  Logs       {settings.state_dir / "logs"}

Try it:

  curl -s {url}/v1/embeddings -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "input": "turn off the lights"}}'

  ironcliw embed "turn off the lights" "what is the weather tomorrow"

  python -c 'from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none")
  print(client.embeddings.create(model="{model}", input="hello").usage)'

For `ray job submit` and the other Ray tools:

  eval "$(ironcliw env)"
""".replace("\n  client", "\nclient").replace("\n  print", "\nprint")
