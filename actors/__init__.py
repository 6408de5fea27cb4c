"""Ray actors: agents, workflows, supervision."""
