"""One run: what is refused before it, and how it is carried out."""
