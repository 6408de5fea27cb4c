"""The HTTP service: ingress, batcher, model cache, engines."""
