"""Learned routing."""
