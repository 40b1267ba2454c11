"""The files that a run leaves, each with one reader and one writer."""
