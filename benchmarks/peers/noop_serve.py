"""What Ray Serve itself costs: a FastAPI deployment that answers one fixed embedding."""

from __future__ import annotations

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
