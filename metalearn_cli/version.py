"""The version of the package, alone in its file so that everything may import it."""

__version__ = "0.2.0"
