"""What the decision log says of durations, memory, machines and arrivals."""
