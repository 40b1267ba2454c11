"""One network a file: pure functions of parameters that may differ for each task."""
