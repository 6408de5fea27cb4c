"""Machines: the Ray head of this machine, its processes and their state."""
