"""The processes that torchrun starts, as far as it is known before torch is imported."""

import os


def is_one_of_several() -> bool:
    """Whether torchrun started this process as one rank of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1
