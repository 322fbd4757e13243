"""A run on disk and a study on disk: two forms, each with one reader and one writer. No torch here."""
