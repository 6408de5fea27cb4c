"""The process beside the head: drains, replaces, reaps, and says what it did."""
