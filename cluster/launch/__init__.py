"""How a machine comes to be: which zone is asked, what it is given, what follows a refusal."""
