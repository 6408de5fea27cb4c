"""Text generation: jobs, scheduling, sampling, and the way from requests to streamed text."""
