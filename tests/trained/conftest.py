"""What the tests of trained models share: a user's own images, and few validation tasks for the flag."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import pictures

from metalearn_cli.trained import (
    export,  # noqa: F401 - the forks need not import them again
    novelty_threshold,
    predict,  # noqa: F401
)


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    """The commands are forks of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty_threshold, "EPISODES", 4)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("own") / "images")
