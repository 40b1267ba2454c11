from pathlib import Path

import pytest
from foreign import make


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, an export and tables, which a test copies before it changes them."""
    return make(tmp_path_factory.mktemp("made"))
