"""Training on preferences: of two answers to a prompt, the model shall come to prefer one."""
