"""One run from top to bottom: train, validate, test, and evaluate again."""
