"""Ray Serve as its documentation shows it: FastAPI, `@serve.batch`, sentence-transformers fp32."""

# No `from __future__ import annotations`: Serve pickles the class, and FastAPI could then not
# resolve annotations that are strings (it would take the body for a query parameter).

import asyncio
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

app = FastAPI()


class EmbeddingRequest(BaseModel):
    """The part of the OpenAI request that the benchmark sends."""

    model: str
    input: str | list[str]


@serve.deployment
@serve.ingress(app)
class Stock:
    """One replica; the batch's wait is the library's default."""

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(model, device="cpu")

    @serve.batch(max_batch_size=32)
    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Called with up to 32 texts that arrived together."""
        vectors = self._model.encode(texts, batch_size=32, normalize_embeddings=True)
        return [vector.tolist() for vector in vectors]

    @app.post("/v1/embeddings")
    async def embeddings(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Each text goes through the batcher by itself."""
        texts = [request.input] if isinstance(request.input, str) else request.input
        vectors = await asyncio.gather(*(self.embed(text) for text in texts))
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "model": request.model, "data": data}
