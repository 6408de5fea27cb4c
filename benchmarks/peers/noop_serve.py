"""What Ray Serve itself costs: a FastAPI deployment that answers one fixed embedding."""

# No `from __future__ import annotations`: Serve pickles the class, and FastAPI could then not
# resolve annotations that are strings (it would take the body for a query parameter).

from typing import Any

from fastapi import FastAPI, Request
from ray import serve

app = FastAPI()
DIMENSIONS = 384


@serve.deployment
@serve.ingress(app)
class Noop:
    """Reads the request and computes nothing."""

    def __init__(self) -> None:
        self._vector = [index / DIMENSIONS for index in range(DIMENSIONS)]

    @app.post("/v1/embeddings")
    async def embeddings(self, request: Request) -> dict[str, Any]:
        """One 384-float embedding, whatever was asked."""
        await request.body()
        data = [{"object": "embedding", "index": 0, "embedding": self._vector}]
        return {"object": "list", "model": "noop", "data": data}
