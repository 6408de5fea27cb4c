"""Trainings that differ in a few numbers, and which of them is the best."""
