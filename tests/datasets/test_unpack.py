"""Unpacking archives: what is written, and what is refused before anything is."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from metalearn_cli.datasets import unpack as archives
from metalearn_cli.datasets.unpack import unpack
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
    """The sentence; nothing was written."""
    top = archive.parent
    before = {path: path.stat().st_mtime_ns for path in top.rglob("*")}
    with pytest.raises(UserError) as caught:
        list(unpack(archive, top / "new"))
    assert {path: path.stat().st_mtime_ns for path in top.rglob("*")} == before, "something was written"
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
    assert steps[-1] == (total, total)
    for file in tmp_path.glob("new/**/*.png"):
        assert file.stat().st_mode & 0o7111 == 0, "the archive's rights were taken"


OUT = {
    "../out.png": "whose name leads out of the folder",
    "set/../../out.png": "whose name leads out of the folder",
    "set/..": "whose name leads out of the folder",
    "/tmp/out.png": "whose name does not begin in the folder",
    "//host/out.png": "whose name does not begin in the folder",
    "C:/out.png": "whose name does not begin in the folder",
    "c:out.png": "whose name does not begin in the folder",
    "\\out.png": "whose name does not begin in the folder",
    "set\\..\\..\\out.png": "whose name has signs",
    "set/a\n.png": "whose name has signs",
    "set/" + "a" * 300: "whose name is too long",
}


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", OUT)
def test_no_member_leaves_the_folder(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    assert OUT[name] in refusal(make(tmp_path / "archive", {**FILES, name: b"out"}))


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive", {"set/a_.png": b"1"})
    path.write_bytes(path.read_bytes().replace(b"a_.png", b"a\0.png"))
    assert "whose name has signs" in refusal(path)


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
        entry("set/sparse", tarfile.GNUTYPE_SPARSE),
        entry("set/unknown", b"Z"),
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


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("set/link")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    assert "is a link or a device" in refusal(zipped(tmp_path / "archive", FILES, (info, b"/etc/passwd")))


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    "names", [["a/x", "a/X"], ["a/x", "A/y"], ["a", "a/x"], ["a/x", "a"], ["a/\u00e9", "a/e\u0301"], ["a/x/y", "a/X"]]
)
def test_members_that_are_one_on_some_file_system_are_refused(
    tmp_path: Path, make: Callable[..., Path], names: list[str]
) -> None:
    assert "get in each other's way" in refusal(make(tmp_path / "archive", dict.fromkeys(names, b"1")))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    assert "get in each other's way" in refusal(tarred(tmp_path / "archive", {"a": b"1"}, tarfile.TarInfo("a")))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_too_many_members_are_refused(
    tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 100)
    many = {f"set/{number}": b"" for number in range(101)}
    assert "holds more than 100 files" in refusal(make(tmp_path / "archive", many))
    many.popitem()
    list(unpack(make(tmp_path / "archive", many), tmp_path / "new"))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = make(tmp_path / "archive", {f"set/{number}": bytes(11 << 20) for number in range(10)})
    assert path.stat().st_size < 1 << 20
    assert "no archive of images grows 100 times" in refusal(path)


def test_a_member_of_many_terabytes_is_refused_by_its_header(tmp_path: Path) -> None:
    info = tarfile.TarInfo("set/large")
    info.size = 1 << 45
    (tmp_path / "archive").write_bytes(info.tobuf() + bytes(1024))
    assert "would become 35,184,372,088,832 or more" in refusal(tmp_path / "archive")


def test_an_archive_of_too_many_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 100)
    assert "beyond 0 GiB" in refusal(tarred(tmp_path / "archive", {"set/a": bytes(60), "set/b": bytes(41)}))


def test_a_member_that_is_shorter_than_it_says_is_damaged(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive", {"set/a": os.urandom(5000)})
    path.write_bytes(path.read_bytes().replace((5000).to_bytes(4, "little"), (6000).to_bytes(4, "little")))
    with pytest.raises(UserError, match="set/a is shorter than it says"):
        list(unpack(path, tmp_path / "new"))


def test_a_tar_with_a_damaged_header_does_not_end_there(tmp_path: Path) -> None:
    path = tarred(tmp_path / "archive", FILES, mode="w")
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 1  # in the second member's checksum
    path.write_bytes(data)
    assert "its end is missing" in refusal(path)


def test_a_member_that_is_longer_than_it_says_is_not_written_to_its_end(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive", {"set/a": bytes(5000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little")))
    with pytest.raises(UserError, match="is damaged"):
        list(unpack(path, tmp_path / "new"))
    assert sum(file.stat().st_size for file in tmp_path.glob("new/**/*") if file.is_file()) <= 50


class Usage:
    free = 10


def test_a_disk_without_room_is_named_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "archive", FILES)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: Usage)  # type: ignore[attr-defined]
    assert "and 10 are free: make room there" in refusal(path)


def broken(data: bytes) -> Iterable[bytes]:
    yield b""
    yield b"not an archive"
    yield from (data[: len(data) * part // 9] for part in range(1, 7))  # a tar has zeros at its end


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
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


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_many_bytes_is_refused_before_it_is_read(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 10 << 30
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"a name of 10,737,418,240 bytes is not unpacked"):
        list(unpack(path, tmp_path / "out"))
