"""What runs on a machine in the cloud, and what it is given at its creation."""
