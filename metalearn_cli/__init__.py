"""metalearn: a command-line experiment runner for few-shot and meta-learning in PyTorch."""

__version__ = "0.1.0"
