"""Training of embedding models: texts that belong together get vectors that are near."""
