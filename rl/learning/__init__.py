"""Learns where steps run, starting from a tuned policy. Needs torch; see `rl/README.md`.

What it makes is a file (`rl.policy_file`) by which `rl.neural` decides without torch.
"""
