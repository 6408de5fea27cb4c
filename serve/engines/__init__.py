"""Model engines and what they read."""
