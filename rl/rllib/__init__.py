"""The same learner on several nodes: PPO of RLlib, which exports the same file of numpy."""
