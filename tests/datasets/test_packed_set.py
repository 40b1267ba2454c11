"""The cache of packed sets: what is written, what is found out, and processes that write at once."""

import errno
import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import in_a_fork
from places import ROOT
from torch import Tensor

from metalearn_cli.datasets import packed_set as packing
from metalearn_cli.datasets.image_set import Unpacked, fingerprint_of
from metalearn_cli.datasets.packed_set import find, open_packed, packed
from metalearn_cli.errors import UserError
from metalearn_cli.system import files
from metalearn_cli.tasks.gather import gather_episodes

NAMES = ("a", "b", "ç")
COUNTS = [2, 1, 3]


pytestmark = pytest.mark.usefixtures("cache")


def pixels(seed: int = 0) -> Tensor:
    return torch.randint(256, (6, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def small(block: int = 2, seed: int = 0) -> Unpacked:
    return Unpacked(NAMES, COUNTS, (3, 4, 4), pixels(seed).split(block))


def test_a_packed_set_is_the_one_that_was_read(cache: Path) -> None:
    images = packed("set", small)
    assert torch.equal(images.pixels, pixels())
    assert (images.names, images.start.tolist(), images.count.tolist()) == (NAMES, [0, 2, 3], COUNTS)
    assert images.fingerprint == fingerprint_of(small(6))
    assert [path.name for path in cache.iterdir()] == [f"set.{images.fingerprint[:16]}.safetensors"]
    again = packed("set", lambda: pytest.fail("read once more"))
    assert torch.equal(again.pixels, images.pixels)
    assert again.fingerprint == images.fingerprint


def test_the_file_does_not_depend_on_the_blocks_that_it_came_in() -> None:
    sources: list[Callable[[], Unpacked]] = [
        lambda: small(1),
        lambda: small(6),
        lambda: small()._replace(blocks=[pixels().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)]),
    ]
    files = []
    for number, source in enumerate(sources):
        packed(f"set{number}", source)
        files.append(find(f"set{number}")[0].read_bytes())
    assert len(set(files)) == 1


@pytest.mark.parametrize("blocks", [[pixels()[:5]], [pixels(), pixels()], [pixels().float()], [pixels()[:, :1]]])
def test_a_source_that_is_not_as_it_said_is_not_packed(cache: Path, blocks: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"a source of 6|a block of"):
        packed("set", lambda: small()._replace(blocks=blocks))
    assert not list(cache.glob("*"))


def test_a_source_that_breaks_in_the_middle_leaves_nothing(cache: Path) -> None:
    def blocks() -> Iterator[Tensor]:
        yield pixels()[:2]
        raise UserError("an image is damaged")

    with pytest.raises(UserError, match="an image is damaged"):
        packed("set", lambda: small()._replace(blocks=blocks()))
    assert not list(cache.glob("*"))


def test_every_changed_bit_is_refused_or_changes_nothing(cache: Path) -> None:
    images = packed("set", small)
    (path,) = cache.iterdir()
    data = path.read_bytes()
    refused = same = 0
    for place in range(len(data)):
        path.unlink()  # a new file: the old one is mapped into memory
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            reread = packed("set", small)
        except UserError as sentence:
            refused += f"{path} is damaged (" in str(sentence)
        else:
            assert torch.equal(reread.pixels, images.pixels)
            assert (reread.names, reread.fingerprint) == (NAMES, images.fingerprint)
            same += 1
    assert refused + same == len(data)
    assert refused >= 6 * 3 * 4 * 4 + 3 * 8 + 32


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(cache: Path, length: int) -> None:
    packed("set", small)
    (path,) = cache.iterdir()
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:length])
    with pytest.raises(UserError, match=r"is damaged .* delete it"):
        packed("set", small)


def test_a_good_file_under_another_name_is_refused(cache: Path) -> None:
    images = packed("set", small)
    find("set")[0].rename(cache / "set.0123456789abcdef.safetensors")
    with pytest.raises(UserError, match=f"its fingerprint begins {images.fingerprint[:16]}, not as its name says"):
        packed("set", small)


def test_two_different_packed_sets_of_one_name_are_refused(cache: Path) -> None:
    packed("set", small)
    (cache / "set.0123456789abcdef.safetensors").touch()
    with pytest.raises(UserError, match="delete both"):
        packed("set", small)


def test_sets_of_another_name_and_files_of_older_releases_are_left_alone(cache: Path) -> None:
    packed("set", small)
    packed("set-two", lambda: small(seed=1))
    (cache / "set-0123456789abcdef.safetensors").touch()
    assert torch.equal(packed("set", small).pixels, pixels())


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written .* set METALEARN_CACHE"):
        packed("set", small)


def test_a_full_disk_leaves_nothing(cache: Path) -> None:
    def pack() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
        with pytest.raises(UserError, match=rf"cannot be written \({os.strerror(errno.EFBIG)}\)"):
            packed("set", small)

    assert in_a_fork(pack) == 0
    assert not list(cache.glob("*"))


# Large files


@pytest.fixture
def large(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packed file that is too large to be read at every start."""
    monkeypatch.setattr(packing, "READ_AT_EVERY_START", 0)
    packed("set", small)
    return find("set")[0]


def change(path: Path, when: int) -> None:
    """Change a pixel, and set the time of change."""
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(when, when))


def test_a_large_file_that_was_changed_is_read_through(large: Path) -> None:
    change(large, large.stat().st_mtime_ns + 1)
    with pytest.raises(UserError, match="is damaged"):
        packed("set", small)


def test_a_large_file_is_read_through_once_and_whenever_it_is_asked_for(large: Path) -> None:
    change(large, large.stat().st_mtime_ns)  # what a disk may do to it
    packed("set", small)
    with pytest.raises(UserError, match="is damaged"):
        open_packed(large, whole=True)
    Path(f"{large}.known").unlink()
    with pytest.raises(UserError, match="is damaged"):
        packed("set", small)


def test_a_small_file_is_read_at_every_start(cache: Path) -> None:
    packed("set", small)
    change(find("set")[0], find("set")[0].stat().st_mtime_ns)
    with pytest.raises(UserError, match="is damaged"):
        packed("set", small)


# Processes

START = f"""
import os, sys, time, torch
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from metalearn_cli.datasets.image_set import Unpacked
from metalearn_cli.datasets.packed_set import packed
here = Path(sys.argv[1])
"""


def test_of_processes_that_pack_at_once_one_does_and_the_other_waits(tmp_path: Path, cache: Path) -> None:
    code = """
def blocks():
    Path(here, f"reads-{os.getpid()}").touch()
    while len(list(here.glob("comes-*"))) < 2 or not os.path.getsize(here / "err"):  # until the other waits
        time.sleep(0.01)
    yield torch.arange(200).to(torch.uint8).view(50, 1, 2, 2)

Path(here, f"comes-{os.getpid()}").touch()
print(packed("a", lambda: Unpacked(tuple(map(str, range(50))), [1] * 50, (1, 2, 2), blocks())).fingerprint)
"""
    here = tmp_path / "here"
    here.mkdir()
    with open(here / "err", "a") as err:
        command = [sys.executable, "-c", START + code, str(here)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True) for _ in range(2)]
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert len(outputs[0]) == 1
    assert outputs[0] == outputs[1]
    assert len(list(here.glob("reads-*"))) == 1
    assert set((here / "err").read_text().splitlines()) == {f"waiting for another process that packs a in {cache}"}
    assert len(list(cache.iterdir())) == 1


def test_a_small_set_does_not_wait_for_a_large_one(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The small one is packed while the large one is read."""

    def blocks() -> Iterator[Tensor]:
        packed("small", small)
        yield pixels()

    packed("large", lambda: small()._replace(blocks=blocks()))
    assert capsys.readouterr().err == ""
    assert [path.name.partition(".")[0] for path in sorted(cache.iterdir())] == ["large", "small"]


def test_a_lock_that_its_holder_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one process would hold a file that is gone, and another the new one of that name."""
    lock, locked, tries = tmp_path / "lock", files._locked, []

    def after_another(descriptor: int, waiting: str | None) -> bool:
        tries.append(descriptor)
        if len(tries) == 1:
            lock.unlink()  # by who held it
        return locked(descriptor, waiting)

    monkeypatch.setattr(files, "_locked", after_another)
    with files.turn_at(lock, "waiting") as first:
        assert first
        assert len(tries) == 2
        with files.turn_at(lock, None) as second:
            assert not second, "it is held, and nobody waits"
        assert lock.exists(), "who does not hold it does not remove it"
    assert not lock.exists()


def test_where_nothing_can_be_locked_every_process_packs_for_itself(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    cache.mkdir()
    (cache / "set.part-1").touch()  # another process's
    packed("set", small)
    assert (cache / "set.part-1").exists()


def test_what_a_killed_process_has_left_is_removed(cache: Path) -> None:
    cache.mkdir()
    (cache / "set.part-1").write_bytes(bytes(100))
    packed("set", small)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_packing_holds_no_more_than_some_blocks_in_memory(tmp_path: Path) -> None:
    code = """
import resource

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

blocks = (torch.full((16, 1, 256, 256), number % 256, dtype=torch.uint8) for number in range(192))  # 1 MiB each
before = peak()
images = packed("a", lambda: Unpacked(("a",), [192 * 16], (1, 256, 256), blocks))
print((peak() - before) / images.pixels.numel())
"""
    done = subprocess.run(
        [sys.executable, "-c", START + code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.25


def test_a_set_larger_than_what_a_process_may_take_is_used_where_it_lies(cache: Path) -> None:
    """The limit is of memory that is the process's own (RLIMIT_DATA): pages of a file, which the system may drop, are
    no part of it. benchmarks/large.py has this with 2 GB."""
    shape = (1, 256, 256)
    blocks = (torch.full((16, *shape), number, dtype=torch.uint8) for number in range(96))  # 96 MiB
    packed("set", lambda: Unpacked(("a", "b"), [768, 768], shape, blocks))
    lines = Path("/proc/self/status").read_text().splitlines()
    (taken,) = (1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:"))

    def use() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (taken + (64 << 20),) * 2)
        images = packed("set", small)
        draw = {f"{part}_image": torch.arange(5, 1536, 307)[None] for part in ("support", "query")}
        more = {"support_y": torch.zeros(1, 5), "query_y": torch.zeros(1, 5), "key": torch.zeros(1)}
        batch = gather_episodes(draw | more, images.pixels)
        assert (batch.query_x[0, :, 0, 0, 0] * 255).round().tolist() == [0, 19, 38, 57, 77]
        with pytest.raises((MemoryError, RuntimeError)):  # torch has no memory for copies
            _ = [images.pixels.clone() for _ in range(16)]  # one may find a place that another test has freed

    assert in_a_fork(use) == 0
