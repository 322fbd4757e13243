"""Training: recipe, session, checkpoints, and one run from config to record."""
