"""One meta-learning algorithm a file: what is learned, how it adapts, its meta-gradient."""
