"""Causal and sequence-to-sequence models behind one ragged forward pass."""
