"""Data: what images there are (no torch), and how they become batches."""
