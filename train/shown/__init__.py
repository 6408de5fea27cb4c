"""A run as dashboards, event files and plots show it."""
