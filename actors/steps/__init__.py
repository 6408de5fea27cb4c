"""Executors: what carries out one attempt of a step, by its kind."""
