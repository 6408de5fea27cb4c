"""The client of Google's Compute API."""
