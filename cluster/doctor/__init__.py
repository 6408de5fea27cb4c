"""`ironcliw doctor`: what is wrong on this machine and in the cloud, each with its next step."""
