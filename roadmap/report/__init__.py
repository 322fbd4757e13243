"""Reports: from a study's records to its table and figure. Nothing is trained and no torch is imported."""
