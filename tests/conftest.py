import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


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
def packed_omniglot() -> None:
    """Random pixels in the cache, where a run looks for packed Omniglot: shapes and classes are the real ones."""
    from metalearn_cli.datasets import base, omniglot

    names = tuple(character.name for character in omniglot.characters())
    rng = torch.Generator().manual_seed(0)
    shape = (len(names) * omniglot.IMAGES, 1, omniglot.SIZE, omniglot.SIZE)
    pixels = torch.randint(256, shape, generator=rng, dtype=torch.uint8)
    images = base.ImageSet.of(pixels, names, torch.full((len(names),), omniglot.IMAGES))
    base.packed("omniglot-28x28-nearest", lambda: images)
