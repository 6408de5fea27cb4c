"""What the orchestrator is made of: queues, timers, running attempts, and the way to the store."""
