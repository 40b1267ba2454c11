"""Each picture goes through the network once, whatever stops a process, damages a file or runs beside it."""

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import main_data, unpacked
from commands import in_a_fork
from networks import tiny
from torch import Tensor

from metalearn_cli.backbones import feature_cache
from metalearn_cli.backbones.encoder import encoder_of
from metalearn_cli.backbones.feature_cache import Embedding, FeatureCache, encoded
from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.datasets.packed_set import packed
from metalearn_cli.errors import UserError

CLASSES, EACH = 6, 5
PIXELS = torch.randint(256, (CLASSES * EACH, 3, 9, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
ALL = torch.arange(CLASSES)


@pytest.fixture
def images(cache: Path) -> ImageSet:
    return packed("set", lambda: unpacked(PIXELS, tuple("abcdef"), EACH))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """How many pictures went through a network since it was asked last, in all processes."""
    counted, before = tmp_path / "seen", [0]

    def counting(*arguments: Any) -> Callable[[Tensor], Tensor]:
        encode = encoder_of(*arguments)

        def count(pictures: Tensor) -> Tensor:
            with counted.open("a") as file:
                file.write("x" * len(pictures))
            return encode(pictures)

        return count

    def since() -> int:
        number = counted.stat().st_size if counted.exists() else 0
        before[0], new = number, number - before[0]
        return new

    monkeypatch.setattr(feature_cache, "encoder_of", counting)
    return since


def expected(embedding: Embedding) -> Tensor:
    return encoder_of(embedding.backbone)(PIXELS).to(embedding.dtype)


def rows(images: ImageSet, classes: Tensor = ALL, embedding: Embedding | None = None) -> Tensor:
    """The features [N, F] of a new process."""
    chosen = embedding or tiny()
    return FeatureCache(images, chosen).of(classes).pixels.view(chosen.dtype)


def files(cache: Path) -> tuple[Path, Path]:
    (features,) = cache.glob("features-*.features")
    return features, features.with_suffix(".jsonl")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_classes_that_are_asked_for_are_computed_once(
    images: ImageSet, seen: Callable[[], int], dtype: torch.dtype
) -> None:
    embedding = tiny(dtype=dtype)
    features = FeatureCache(images, embedding)
    two = features.of(torch.tensor([1, 4]))
    assert (two.numbers, two.names, two.fingerprint) == (dtype, images.names, images.fingerprint)
    asked = torch.cat([torch.arange(EACH, 2 * EACH), torch.arange(4 * EACH, 5 * EACH)])
    torch.testing.assert_close(two.pixels.view(dtype)[asked], expected(embedding)[asked])  # of other images at once
    assert seen() == 2 * EACH
    features.of(torch.tensor([4]))
    assert seen() == 0
    torch.testing.assert_close(features.of(torch.tensor([0, 1])).pixels.view(dtype)[:EACH], expected(embedding)[:EACH])
    assert seen() == EACH
    torch.testing.assert_close(rows(images, ALL, embedding), expected(embedding))
    assert seen() == 3 * EACH
    torch.testing.assert_close(rows(images, ALL, embedding), expected(embedding))
    assert seen() == 0


def test_other_weights_sizes_numbers_and_pictures_have_rows_of_their_own(
    images: ImageSet, cache: Path, seen: Callable[[], int]
) -> None:
    other = packed("other", lambda: unpacked(255 - PIXELS, tuple("abcdef"), EACH))
    rows(images)
    rows(images, ALL, tiny(64 * "b"))
    rows(images, ALL, tiny(dtype=torch.float32))
    rows(other)
    assert seen() == 4 * len(PIXELS)
    assert len(list(cache.glob("*.features"))) == 4


def test_a_process_that_is_killed_leaves_whole_classes(
    images: ImageSet, seen: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "AT_ONCE", 2)

    def killed() -> None:
        counting = feature_cache.encoder_of

        def dying(*arguments: Any) -> Callable[[Tensor], Tensor]:
            encode, calls = counting(*arguments), iter(range(100))

            def count(pictures: Tensor) -> Tensor:
                if next(calls) == 7:  # in the third class
                    os.kill(os.getpid(), signal.SIGKILL)
                return encode(pictures)

            return count

        monkeypatch.setattr(feature_cache, "encoder_of", dying)
        rows(images)

    assert in_a_fork(killed) == -signal.SIGKILL
    assert seen() == 2 * EACH + 2
    assert torch.equal(rows(images), expected(tiny()))
    assert seen() == 4 * EACH


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda rows, index: flip(rows, 12 * 7), EACH),
        (lambda rows, index: os.truncate(rows, 12 * (len(PIXELS) - 1)), len(PIXELS)),
        (lambda rows, index: rows.unlink(), len(PIXELS)),
        (lambda rows, index: index.unlink(), len(PIXELS)),
        (lambda rows, index: index.write_bytes(index.read_bytes()[:-9]), EACH),
        (lambda rows, index: index.write_bytes(b"[" * 60_000 + b"\n" + index.read_bytes()), len(PIXELS)),
        (lambda rows, index: index.write_bytes(index.read_bytes() + b"[" * 60_000 + b'\n[7, 1]\n{"a"\n\xff\n'), 0),
        (lambda rows, index: index.write_text(index.read_text().replace("aaa", "bbb")), len(PIXELS)),
    ],
)
def test_what_is_damaged_is_computed_again(
    images: ImageSet, cache: Path, seen: Callable[[], int], damage: Callable[[Path, Path], object], again: int
) -> None:
    rows(images)
    seen()
    damage(*files(cache))
    assert torch.equal(rows(images), expected(tiny()))
    assert seen() == again
    assert torch.equal(rows(images), expected(tiny()))
    assert seen() == 0


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_two_processes_share_the_work(images: ImageSet, seen: Callable[[], int], cache: Path) -> None:
    def work() -> None:
        assert torch.equal(rows(images), expected(tiny()))

    pids = []
    for _ in range(2):
        if (pid := os.fork()) == 0:
            os._exit(in_a_fork(work))
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert seen() == len(PIXELS)
    assert not list(cache.glob("*.lock"))


def test_a_full_disk_is_a_sentence_and_loses_no_class(
    images: ImageSet, seen: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        write, calls = feature_cache.write_all, iter(range(100))

        def full(file: Any, data: Any) -> None:
            if next(calls) == 5:  # the header, two classes with their lines, and then the disk is full
                raise OSError(errno.ENOSPC, "No space left on device")
            write(file, data)

        patch.setattr(feature_cache, "write_all", full)
        with pytest.raises(UserError, match=r"features cannot be written \(No space left on device\): make"):
            rows(images)
    seen()
    assert torch.equal(rows(images), expected(tiny()))
    assert seen() == 4 * EACH


def test_features_that_float16_does_not_hold_are_refused(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "encoder_of", lambda *_: lambda x: torch.full((len(x), 6), 1e6))
    with pytest.raises(UserError, match=r"tiny makes features up to 1e\+06, .* give model.dtype=float32"):
        rows(images)
    assert rows(images, ALL, tiny(dtype=torch.float32)).max() == 1e6


def test_pictures_outside_of_a_set_become_what_the_cache_would_keep(images: ImageSet) -> None:
    assert torch.equal(encoded(tiny(), encoder_of(tiny().backbone), PIXELS), rows(images).float())


def test_features_are_listed_and_removed(images: ImageSet, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    used = FeatureCache(images, tiny()).of(ALL)
    features, index = files(cache)
    _, out, _ = main_data(capsys, "list")
    assert f"{features.stem}  " in out
    assert "6 features of tiny at 4 x 4 pixels, of set" in out
    assert "1 packed set(s)" in out
    code, _, err = main_data(capsys, "clean", features.stem)
    assert (code, "in use by a running process, and kept" in err) == (1, True)
    del used
    assert main_data(capsys, "clean", features.stem)[0] == 0
    assert not features.exists()
    assert not index.exists()


def test_a_line_tells_what_the_rows_are_of(images: ImageSet, cache: Path) -> None:
    rows(images)
    about = json.loads(files(cache)[1].read_text().splitlines()[0])
    assert (about["pixels"], about["weights"], about["numbers"]) == (images.fingerprint, 64 * "a", "torch.float16")
