"""Which files are taken for pictures, by their names and by their content, and what is left alone."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from places import ROOT

from metalearn_cli.datasets import formats
from metalearn_cli.datasets.formats import FORMATS, SUFFIXES, Broken, is_picture, open_picture
from metalearn_cli.datasets.listing import list_images
from metalearn_cli.datasets.pictures import read_picture, read_rgb
from metalearn_cli.errors import UserError
from metalearn_cli.trained.file_inputs import images

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
WMF = bytes.fromhex("d7cdc69a0000000000006400640048000000000000000100090000030000000000000000000000000000")


def save(path: Path, colour: tuple[int, int, int] = (200, 30, 90)) -> None:
    """A picture of one colour in the format that the suffix asks for."""
    picture = Image.new("RGB", (16, 16), colour)
    name = next(name for name, suffixes in FORMATS.items() if path.suffix in suffixes)
    if name == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(picture).save(path, quality=95)
    elif name == "AVIF" and name not in Image.registered_extensions().values():
        pytest.skip("this Pillow has no AVIF")
    elif path.suffix in (".pgm", ".pbm"):
        picture.convert("L" if path.suffix == ".pgm" else "1").save(path, name)
    else:
        picture.save(path, name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_each_suffix_is_listed_and_read(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "class"
    folder.mkdir()
    save(folder / f"a{suffix}")
    (folder / f"a{suffix}").rename(folder / f"A{suffix.upper()}")
    assert [file.name for file in list_images(tmp_path).classes["class"]] == [f"class/A{suffix.upper()}"]
    assert images(f"{tmp_path}/class/*")[0] == [folder / f"A{suffix.upper()}"]
    red, green, blue = read_picture(folder / f"A{suffix.upper()}", 3, 16).resize((1, 1)).getpixel((0, 0))
    if suffix not in (".dib", ".tga"):  # nothing in these says what they are
        shutil.copy(folder / f"A{suffix.upper()}", folder / "b.png")
        assert read_picture(folder / "b.png", 3, 16) == read_picture(folder / f"A{suffix.upper()}", 3, 16)
    if suffix not in (".pgm", ".pbm"):
        assert abs(red - 200) + abs(green - 30) + abs(blue - 90) < 20


def test_other_files_are_not_taken_for_pictures() -> None:
    assert not any(map(is_picture, ("a.eps", "a.pdf", "a.wmf", "a.svg", "a.txt", "a", "jpg")))


@pytest.mark.parametrize(("content", "why"), [(EPS, "is PostScript"), (WMF, "is not an image that Pillow can read")])
@pytest.mark.row("C8")
@pytest.mark.row("C27")
def test_a_format_that_starts_programs_is_not_opened(
    tmp_path: Path, content: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow asks Ghostscript to draw EPS, whatever the file is called."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    for name in ("Popen", "call", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, refuse)
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(Broken, match=why):
        read_picture(path, 3, 16)
    with pytest.raises(UserError, match=why):
        read_rgb(path)


def test_whoever_opens_a_picture_says_in_which_formats() -> None:
    root = ROOT
    files = [path for name in ("metalearn_cli", "benchmarks", "examples") for path in (root / name).rglob("*.py")]
    opening = [
        line for path in files for line in path.read_text(encoding="utf-8").splitlines() if "Image.open(" in line
    ]
    assert opening
    assert [line for line in opening if "formats=" not in line] == []


@pytest.mark.row("C8")
def test_bytes_that_say_nothing_are_a_tga_only_where_the_name_says_so(tmp_path: Path) -> None:
    """Any bytes with a few zeros at the right places pass for one."""
    save(tmp_path / "a.tga")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.tga").read_bytes())
    with pytest.raises(Broken, match="is not an image that Pillow can read"):
        read_picture(tmp_path / "b.png", 3, 16)
    with pytest.raises(Image.UnidentifiedImageError):
        open_picture(io.BytesIO((tmp_path / "a.tga").read_bytes()))


@pytest.mark.row("C8")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(Broken, match="is not a plain file"):
        read_picture(tmp_path / "a.png", 3, 16)


HEIC = bytes.fromhex("00000018667479706d696631000000006d69663168656963")


def test_heic_without_its_reader_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.jpg").write_bytes(HEIC)
    with pytest.raises(Broken, match=r"is HEIC, which is read by pillow-heif: pip install 'metalearn-cli\[heic\]'"):
        read_picture(tmp_path / "a.jpg", 3, 16)


def test_avif_with_an_old_pillow_names_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_readable", lambda: ("JPEG", "PNG"))
    (tmp_path / "a.avif").write_bytes(HEIC.replace(b"heic", b"avif"))
    with pytest.raises(Broken, match=r"is AVIF, which Pillow .* here does not read: pip install 'Pillow>=11\.3'"):
        read_picture(tmp_path / "a.avif", 3, 16)


def test_a_damaged_heic_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(Broken, match="cannot be"):
        read_picture(tmp_path / "a.heic", 3, 16)


def test_a_heic_that_lies_on_its_side_is_turned_once(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    wide = Image.new("RGB", (64, 32), (200, 30, 90))
    wide.paste((20, 60, 220), (0, 0, 32, 32))  # left, and at the top once it is turned
    file = heif.from_bytes("RGB", wide.size, wide.tobytes())
    file.info["exif"] = exif.tobytes()
    file.save(tmp_path / "a.heic", quality=95)  # as telephones do: the turn as a box of its own, and in the EXIF data
    picture = read_picture(tmp_path / "a.heic", 3, 64)
    assert picture.size == (32, 64)
    assert picture.getpixel((16, 8))[2] > 180
    assert picture.getpixel((16, 56))[0] > 170
