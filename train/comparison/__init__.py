"""A base and several adapters measured on the same suites of tasks, and compared row by row."""
