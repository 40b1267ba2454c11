"""Unpacking archives: what is written, and what is refused."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from metalearn_cli.datasets import sources as archives
from metalearn_cli.datasets.sources import unpack
from metalearn_cli.errors import UserError

pytestmark = pytest.mark.row("C7")

FILES = {"set/a/1.png": b"first", "set/a/2.png": b"", "set/ä/3.png": bytes(range(256)) * 9000}


def zipped(path: Path, files: dict[str, bytes], *more: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for info, data in more:
            archive.writestr(info, data)
    return path


def tarred(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o6777
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(archive: Path) -> str:
    """The sentence; nothing was written outside of the folder."""
    top = archive.parent
    before = set(top.rglob("*"))
    with pytest.raises(UserError) as caught:
        list(unpack(archive, top / "new"))
    assert {path for path in top.rglob("*") if path != top / "new" and top / "new" not in path.parents} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_files_are_written_as_new_ones(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive"
    if kind == "zip":
        zipped(path, {**FILES, "./set//b/": b"", "./set//b/4.png": b"4"})
    else:
        top, folder = tarfile.TarInfo("."), tarfile.TarInfo("./set/b/")
        top.type = folder.type = tarfile.DIRTYPE
        folder.mode = 0
        tarred(path, {**FILES, "./set//b/4.png": b"4"}, top, folder, mode=kind)
    steps = list(unpack(path, tmp_path / "new"))
    assert everything(tmp_path / "new") == {**FILES, "set/b/4.png": b"4"}
    total = sum(map(len, FILES.values())) + 1
    assert steps[-1] == (total, None)
    for file in tmp_path.glob("new/**/*.png"):
        assert file.stat().st_mode & 0o7022 == 0, "the archive's rights were taken"


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["../out.png", "set/../../out.png", "set/a/../../../../out.png"])
def test_no_member_leaves_the_folder(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    assert "whose name leads out of the folder" in refusal(make(tmp_path / "archive", {**FILES, name: b"out"}))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_name_from_the_root_on_stands_in_the_folder(tmp_path: Path, make: Callable[..., Path]) -> None:
    list(unpack(make(tmp_path / "archive", {"/tmp/out.png": b"out"}), tmp_path / "new"))
    assert everything(tmp_path / "new") == {"tmp/out.png": b"out"}


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "info",
    [
        entry("set/link", tarfile.SYMTYPE, "/etc"),
        entry("set/link", tarfile.SYMTYPE, "a"),
        entry("set/link", tarfile.LNKTYPE, "set/a/1.png"),
        entry("set/link", tarfile.LNKTYPE, "../../etc/passwd"),
        entry("set/device", tarfile.CHRTYPE),
        entry("set/device", tarfile.BLKTYPE),
        entry("set/pipe", tarfile.FIFOTYPE),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, info: tarfile.TarInfo) -> None:
    path = tarred(tmp_path / "archive", FILES, info, mode="w")
    assert "is a link or a device: only files and folders are unpacked" in refusal(path)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    link = entry("set/link", tarfile.SYMTYPE, str(tmp_path / "outside"))
    file = tarfile.TarInfo("set/link/out.png")
    assert "a link or a device" in refusal(tarred(tmp_path / "archive", {}, link, file))


@pytest.mark.parametrize("names", [["a", "a"], ["a/x", "a"]])
def test_a_member_in_place_of_another_is_refused(tmp_path: Path, names: list[str]) -> None:
    assert "twice, or in place of a folder" in refusal(tarred(tmp_path / "archive", {}, *map(tarfile.TarInfo, names)))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_too_many_members_are_refused(
    tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 100)
    many = {f"set/{number}": b"" for number in range(101)}
    assert "holds more than 100 files, or" in refusal(make(tmp_path / "archive", many))
    many.popitem()
    list(unpack(make(tmp_path / "archive", many), tmp_path / "all"))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_bomb_is_refused(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = make(tmp_path / "archive", {f"set/{number}": bytes(11 << 20) for number in range(10)})
    assert path.stat().st_size < 1 << 20
    assert "which no archive of images of its size does" in refusal(path)


def test_a_member_of_many_terabytes_is_refused_by_its_header(tmp_path: Path) -> None:
    info = tarfile.TarInfo("set/large")
    info.size = 1 << 45
    (tmp_path / "archive").write_bytes(info.tobuf() + bytes(1024))
    assert "or than 104,857,600 bytes" in refusal(tmp_path / "archive")


def test_a_member_that_is_longer_than_it_says_is_not_written_to_its_end(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive", {"set/a": bytes(5000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little")))
    with pytest.raises(UserError, match="is damaged"):
        list(unpack(path, tmp_path / "new"))
    assert sum(file.stat().st_size for file in tmp_path.glob("new/**/*") if file.is_file()) <= 50


def broken(data: bytes) -> Iterable[bytes]:
    yield b""
    yield b"not an archive"
    yield from (data[: len(data) * part // 9] for part in range(1, 7))  # a tar has zeros at its end


@pytest.mark.parametrize("kind", ["zip", "w:gz", "w:bz2", "w:xz"])
def test_a_truncated_archive_is_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive"
    noise = {f"set/{number}": os.urandom(3000) for number in range(9)}
    data = (zipped(path, noise) if kind == "zip" else tarred(path, noise, mode=kind)).read_bytes()
    for number, part in enumerate(broken(data)):
        path.write_bytes(part)
        with pytest.raises(UserError, match=r"(is damaged \(.*|can be read): take another copy|holds no file"):
            list(unpack(path, tmp_path / f"new{number}"))


def test_an_encrypted_or_changed_member_is_a_sentence(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive", {"set/a": os.urandom(1000)})
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="Bad CRC-32"):
        list(unpack(path, tmp_path / "new"))


def test_a_python_without_the_filter_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    path = zipped(tmp_path / "archive", FILES)
    assert "has no tarfile.data_filter, by which archives are unpacked: take Python 3.10.12" in refusal(path)
