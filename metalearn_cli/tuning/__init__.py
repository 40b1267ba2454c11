"""What fits into memory, how fast it is, and the settings chosen by that."""
