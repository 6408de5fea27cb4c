"""Checkpoints that are whole or absent: written aside, hashed, committed by their manifest."""
