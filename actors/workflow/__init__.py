"""Durable workflows: the definition, and the state machine that follows from its events."""
