"""Learns where steps run, starting from the expected-cost policy. Needs torch; see `rl/README.md`.

What it makes is a file (`rl.policy_file`) by which `rl.neural` decides without torch.
"""
