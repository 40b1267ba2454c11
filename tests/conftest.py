import importlib
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: a process that has once used two threads hangs in its forks, and the commands are forked.
os.environ["OMP_NUM_THREADS"] = "1"

import foreign
import numpy
import pytest
import torch
from cases import nightly, noise, unpacked
from PIL import Image

from metalearn_cli.datasets.packed_set import packed
from metalearn_cli.tasks import cifar_fs, mini_imagenet, omniglot
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import about_sets
from metalearn_cli.tasks.mini_imagenet import MiniImageNet


def tries_of(marker: pytest.Mark) -> int:
    """How often a row of the fault matrix is tried: as its CI column says, or its full one."""
    tries: int = marker.kwargs["full" if os.environ.get("METALEARN_FAULTS") == "full" else "ci"]
    return tries


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of a row takes `attempt`, and is run once for each; those beyond `gate` are nightly."""
    marker = metafunc.definition.get_closest_marker("row")
    if marker is not None and "attempt" in metafunc.fixturenames:
        tries = range(tries_of(marker))
        gate = marker.kwargs.get("gate", len(tries))
        metafunc.parametrize("attempt", [*tries[:gate], *nightly((attempt,) for attempt in tries[gate:])])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """METALEARN_ROW=A1: the tests of this row only."""
    if row := os.environ.get("METALEARN_ROW"):
        items[:] = [item for item in items if row in {mark.args[0] for mark in item.iter_markers("row")}]


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> int:
    return tries_of(request.node.get_closest_marker("row"))


@pytest.fixture(scope="session", autouse=True)
def _session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and a cache of packed sets that is shared by the tests of this session only."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEARN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """A command sets them to 0 for its process, which here goes on to other tests."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def few_validation_tasks() -> Iterator[None]:
    """Few by which the flag `unlike` is measured; the commands are forks of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metalearn_cli.trained.novelty_threshold.EPISODES", 4)
        yield


@pytest.fixture(scope="session")
def inductor_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where compiled code is kept."""
    folder = tmp_path_factory.mktemp("inductor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def own_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 15 classes with two images each, as `task=image_folder` needs one; beside it the folder `more` with
    three of each, and vectors.npz with four vectors of each of 15 classes."""
    root = tmp_path_factory.mktemp("own") / "images"
    for number in range(30):
        rng = torch.Generator().manual_seed(number)
        save_noise(root / f"class{number // 2:02}" / f"{number}.png", (16, 16), rng)
    for number in range(45):
        save_noise(root.with_name("more") / f"class{number // 3:02}" / f"{number}.png", (16, 16), rng)
    y = torch.arange(60) % 15
    numpy.savez(root.with_name("vectors.npz"), x=torch.randn(60, 6, generator=rng).numpy(), y=y.numpy())
    return root


def save_noise(path: Path, size: tuple[int, int], rng: torch.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = torch.randint(256, (3 * size[0] * size[1],), generator=rng, dtype=torch.uint8)
    Image.frombytes("RGB", size, bytes(noise.tolist())).save(path, quality=50)


def pack_noise(name: str, names: tuple[str, ...], images: int, shape: tuple[int, ...]) -> None:
    """Pack a set of so many images of each class, which are noise."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (len(names) * images, *shape), generator=rng, dtype=torch.uint8)
    packed(name, lambda: unpacked(pixels, names, images))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs and an exported model, to be copied and changed as somebody else may change it."""
    return foreign.make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def omniglot_root() -> str:
    """The folder of the real archives: METALEARN_DATA's, or the one beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    for data in (Path(os.environ.get("METALEARN_DATA") or beside), beside):
        if (data / "omniglot" / "images_background.zip").is_file():
            return str(data / "omniglot")
    pytest.skip("no Omniglot: set METALEARN_DATA to the folder whose subfolder omniglot holds the two archives")


@pytest.fixture(scope="session")
def cifar_fs_root() -> str:
    """The folder of the real cifar100/: METALEARN_DATA's."""
    root = Path(os.environ.get("METALEARN_DATA") or "/nowhere") / "cifar-fs"
    if not (root / "cifar100" / "data").is_dir():
        pytest.skip("no CIFAR-FS: set METALEARN_DATA to the folder whose subfolder cifar-fs holds cifar100/")
    return str(root)


@pytest.fixture(scope="session")
def random_omniglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache where packed Omniglot holds random pixels; shapes and classes are the real ones."""
    names, side = tuple(character.name for character in omniglot.characters()), omniglot.SIZE
    cache = tmp_path_factory.mktemp("random-omniglot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEARN_CACHE", str(cache))
        pack_noise(f"omniglot-{side}x{side}-nearest", names, omniglot.IMAGES, (1, side, side))
    return cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of packed sets for one test."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def packed_omniglot(random_omniglot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Omniglot as a run finds it, without its data."""
    monkeypatch.setenv("METALEARN_CACHE", str(random_omniglot))


@pytest.fixture(scope="session")
def random_cifar_fs(random_omniglot: Path) -> Path:
    """The same cache with a CIFAR-FS of random pixels beside it, 20 images of each of the real classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEARN_CACHE", str(random_omniglot))
        pack_noise("cifar-fs-32x32", tuple(listed.name for listed in cifar_fs.classes()), 20, (3, 32, 32))
    return random_omniglot


@pytest.fixture(scope="session")
def small_mini_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets whose mini-imagenet has the real numbers of classes, with 4 images of noise in each."""
    data = tmp_path_factory.mktemp("data")
    rng = torch.Generator().manual_seed(0)
    splits = [split for split, classes in mini_imagenet.CLASSES.items() for _ in range(classes)]
    for number, split in enumerate(splits):
        for i in range(4):
            path = data / "mini-imagenet" / split / f"n{number:08}" / f"n{number:08}_{i}.jpg"
            save_noise(path, (84, 84) if i else (100, 70), rng)
    return data


@pytest.fixture
def packed_images(
    packed_omniglot: None, random_cifar_fs: Path, small_mini_imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image task as a run finds it, without its data. Commands find those above; of the others only this process
    has images."""
    monkeypatch.setattr(MiniImageNet, "about", MiniImageNet.about._replace(fewest=4))
    monkeypatch.setenv("METALEARN_DATA", str(small_mini_imagenet))
    for name, about in about_sets().items():
        module = importlib.import_module(f"metalearn_cli.tasks.{name}")
        if not about.packed_files() and not about.is_in(about.folder_of()):
            cls = next(cls for cls in ImageTask.__subclasses__() if cls.__module__ == module.__name__)
            monkeypatch.setattr(cls, "images", noise(about.classes, shape=cls().preparation.shape))
