"""Training: the loop, one update, the recipe, checkpoints and the processes of one run."""
