"""Measures on rows that are not trained on, and what follows from them."""
