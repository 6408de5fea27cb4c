"""The Ray head of this machine: its processes, its files, its start and stop."""
