"""What the tests of trained models share: a user's own images, and few validation tasks for the flag."""

from pathlib import Path

import pytest
from tiny_runs import pictures

from metalearn_cli.trained import export, predict  # noqa: F401 - the forks need not import them again


@pytest.fixture(scope="module", autouse=True)
def _few(few_validation_tasks: None) -> None:
    pass


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("own") / "images")
