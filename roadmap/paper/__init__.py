"""Published numbers: one CSV a table."""
