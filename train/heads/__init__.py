"""Heads: linear classifiers over the vectors of an embedding model, fitted once and calibrated."""
