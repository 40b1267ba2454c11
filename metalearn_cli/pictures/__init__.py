"""Drawings of a run's first tasks, as arrays, as images and as text."""
