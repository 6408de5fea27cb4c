"""Answers to closed questions: which of these labels, how likely, or none of them."""
