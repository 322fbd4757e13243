"""W&B: an uploader in a process of its own, and dashboards."""
