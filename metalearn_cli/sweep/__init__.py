"""Many runs from one command: grids, and searches over a space."""
