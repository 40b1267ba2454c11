import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metalearn_cli.datasets import omniglot
from metalearn_cli.datasets.base import ImageSet, packed


@pytest.fixture(scope="session", autouse=True)
def _session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and a cache of packed sets that is shared by the tests of this session only."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEARN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def omniglot_root() -> str:
    """The folder of the real archives: METALEARN_DATA's, or the one beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    for data in (Path(os.environ.get("METALEARN_DATA") or beside), beside):
        if (data / "omniglot" / "images_background.zip").is_file():
            return str(data / "omniglot")
    pytest.skip("no Omniglot: set METALEARN_DATA to the folder whose subfolder omniglot holds the two archives")


@pytest.fixture(scope="session")
def random_omniglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache where packed Omniglot holds random pixels; shapes and classes are the real ones."""
    names = tuple(character.name for character in omniglot.characters())
    rng = torch.Generator().manual_seed(0)
    shape = (len(names) * omniglot.IMAGES, 1, omniglot.SIZE, omniglot.SIZE)
    pixels = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    images = ImageSet.of(pixels, names, torch.full((len(names),), omniglot.IMAGES))
    cache = tmp_path_factory.mktemp("random-omniglot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEARN_CACHE", str(cache))
        packed(f"omniglot-{omniglot.SIZE}x{omniglot.SIZE}-nearest", lambda: images)
    return cache


@pytest.fixture
def packed_omniglot(random_omniglot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Omniglot as a run finds it, without its data."""
    monkeypatch.setenv("METALEARN_CACHE", str(random_omniglot))
