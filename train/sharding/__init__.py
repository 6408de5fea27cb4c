"""A model in pieces over all workers: FSDP2, with a result that no number of workers changes."""
