"""`metalearn data`, from archive and server to packed set."""

import hashlib
import io
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import main_data as command
from cases import picture, write_birds, write_cifar_100
from commands import in_a_fork
from PIL import Image
from servers import Server, serve

from metalearn_cli.cli import main
from metalearn_cli.commands import data
from metalearn_cli.commands.completion import completions
from metalearn_cli.config.conf_folder import list_choices
from metalearn_cli.datasets import packed_set as cache
from metalearn_cli.datasets import sources
from metalearn_cli.datasets.image_set import ListedClass
from metalearn_cli.tasks import omniglot
from metalearn_cli.tasks.known_sets import about_sets
from metalearn_cli.tasks.omniglot import Omniglot


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data, and nothing packed."""
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    return err.removeprefix("metalearn: ").rstrip("\n")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


@pytest.fixture
def cifar(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """cifar100.zip with two images in each of two classes, and a file that is none of them."""
    write_cifar_100(home / "made", monkeypatch, 2)
    path = Path(shutil.make_archive(str(home / "cifar100"), "zip", home / "made"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/cifar100/data/._apple", b"junk")
    shutil.rmtree(home / "made")
    return path


@pytest.fixture
def birds(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CUB_200_2011.tgz with four classes of birds, and a file beside them."""
    (write_birds(home / "made", monkeypatch) / "attributes.txt").write_text("1\n")
    path = Path(shutil.make_archive(str(home / "CUB_200_2011"), "gztar", home / "made"))
    shutil.rmtree(home / "made")
    return path


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of two archives with a character each, and the list of them."""
    listed, files = [], {}
    for number, stem in enumerate(("images_background", "images_evaluation")):
        images = [picture(20 * number + i, (105, 105)).convert("L") for i in range(20)]
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for i, image in enumerate(images, 1):
                archive.writestr(f"{stem}/A/character01/0001_{i:02}.png", png(image))
        files[f"/{stem}.zip"] = file.getvalue()
        sha256 = hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
        listed.append(ListedClass(f"{stem}/A/character01", "train", sha256=sha256[:16]))
    monkeypatch.setattr(omniglot, "characters", lambda: tuple(listed))
    monkeypatch.setattr(sources, "_PAUSE", 0.0)
    with serve(files) as server:
        downloads = tuple(
            (name[1:], f"{server.address}{name}", hashlib.md5(content, usedforsecurity=False).hexdigest())
            for name, content in files.items()
        )
        monkeypatch.setitem(about_sets(), "omniglot", Omniglot.about._replace(downloads=downloads))
        yield server


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# prepare


def test_omniglot_is_fetched_packed_and_then_left_alone(
    home: Path, letters: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    letters.breaks_after = [50_000]
    code, out, err = command(capsys, "prepare", "omniglot")
    assert (code, err) == (0, "")
    assert out.startswith("Omniglot is ready: 2 classes, 40 images, fingerprint ")
    assert everything(home / "data") == {"omniglot/images_background.zip", "omniglot/images_evaluation.zip"}
    assert [request.range for request in letters.requests] == [None, "bytes=50000-", None]
    assert len(everything(home / "cache")) == 1
    before = len(letters.requests)
    code, out, err = command(capsys, "prepare", "omniglot")
    assert (code, err) == (0, "")
    assert out.startswith("Omniglot is ready, and there was nothing to do: 2 classes, 40 images, fingerprint ")
    assert len(letters.requests) == before


def test_a_fetch_that_fails_goes_on_with_the_next_call(
    home: Path, letters: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    letters.breaks_after = [10**9, 50_000, 0, 0]
    assert "give the same command again, which continues after the 50000 bytes" in refusal(
        capsys, "prepare", "omniglot"
    )
    assert everything(home / "data") == {"omniglot/images_background.zip", "omniglot/images_evaluation.zip.part"}
    code, out, _ = command(capsys, "prepare", "omniglot")
    assert code == 0
    assert "Omniglot is ready: 2 classes" in out
    assert [request.path for request in letters.requests].count("/images_background.zip") == 1
    assert letters.requests[-1].range == "bytes=50000-"


def test_a_root_of_its_own_is_used(home: Path, letters: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "prepare", "omniglot", f"task.root={home}/mine")[0] == 0
    assert everything(home / "mine") == {"images_background.zip", "images_evaluation.zip"}
    assert not (home / "data").exists()
    assert command(capsys, "path", "omniglot", f"root={home}/mine")[1].splitlines()[0] == f"{home}/mine"


def test_of_two_that_prepare_at_once_one_fetches(home: Path, letters: Server) -> None:
    begun, go_on = threading.Event(), threading.Event()
    answer = letters.answer

    def slowly(handler: object) -> None:
        begun.set()
        assert go_on.wait(60)
        answer(handler)  # type: ignore[arg-type]

    letters.answer = slowly  # type: ignore[method-assign, assignment]
    codes: list[int] = []

    def prepare() -> None:
        data.prepare_known("omniglot", None, None)
        codes.append(0)

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    threads[1].join(0.2)  # so that it has come to where it waits
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert codes == [0, 0]
    assert [request.path for request in letters.requests] == ["/images_background.zip", "/images_evaluation.zip"]


def test_of_two_that_unpack_at_once_one_does(
    home: Path, cifar: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other has looked for the data before, and has waited since."""
    unpack, unpacked = data._unpack, []

    def unpack_once_more(name: str, archive: Path, folder: Path) -> None:
        unpacked.append(name)
        unpack(name, archive, folder)

    monkeypatch.setattr(data, "_unpack", unpack_once_more)
    for _ in range(2):
        data._get("cifar_fs", home / "data/cifar-fs", cifar)
    assert unpacked == ["cifar_fs"]


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
def test_cifar_100s_archive_is_unpacked_and_packed(
    home: Path, cifar: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, out, err = command(capsys, "prepare", name, f"archive={cifar}")
    assert (code, err) == (0, "")
    assert f"{about_sets()[name].title} is ready: 2 classes, 4 images, fingerprint " in out
    assert f"in {home}/cache/cifar-fs-32x32." in out
    assert everything(home / "data") >= {
        f"cifar-fs/cifar100/data/{c}/{c}_s_{i:06}.png" for c in ("apple", "bear") for i in (0, 1)
    }
    assert [path.name for path in (home / "data").iterdir()] == ["cifar-fs"]
    code, out, err = command(capsys, "prepare", name, f"archive={cifar}")
    assert code == 0
    assert "there was nothing to do" in out
    assert f"{cifar} is not read, as {about_sets()[name].title} is there already" in err


def test_an_archive_beside_its_images_is_in_nobodys_way(
    home: Path, cifar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "data/cifar-fs").mkdir(parents=True)
    moved = cifar.rename(home / "data/cifar-fs/cifar100.zip")
    assert command(capsys, "prepare", "cifar_fs", f"archive={moved}")[0] == 0


def test_cubs_archive_is_unpacked_and_packed(home: Path, birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "prepare", "cub", f"archive={birds}")
    assert code == 0
    assert "CUB-200-2011 is ready: 4 classes, 11 images" in out
    assert len(everything(home / "data/cub/CUB_200_2011")) == 13
    assert command(capsys, "prepare", "cub")[1].startswith("CUB-200-2011 is ready, and there was nothing to do")


def test_an_archive_with_a_folder_around_the_layout_is_understood(
    home: Path, cifar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(cifar) as old, zipfile.ZipFile(home / "new.zip", "w") as new:
        for name in old.namelist():
            new.writestr(f"some/folder/{name}", old.read(name))
    assert command(capsys, "prepare", "cifar_fs", f"archive={home}/new.zip")[0] == 0
    assert (home / "data/cifar-fs/cifar100/data/bear/bear_s_000001.png").is_file()


def test_what_only_the_user_can_fetch_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, known in about_sets().items():
        if name != "omniglot":
            sentence = refusal(capsys, "prepare", name)
            assert sentence == f"{known.title} is not in {home}/data/{known.folder}: {known.instructions}"
            assert f"metalearn data prepare {name} archive=" in sentence
    assert not (home / "data").exists()
    assert not (home / "cache").exists()


@pytest.mark.row("C7")
def test_archives_that_are_not_to_be_unpacked_leave_nothing(
    home: Path, cifar: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(cifar, "a") as archive:
        archive.writestr("../../out.png", b"out")
    assert "whose name leads out of the folder" in refusal(capsys, "prepare", "cifar_fs", f"archive={cifar}")
    other = home / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("something/else.png", b"1")
    sentence = refusal(capsys, "prepare", "cifar_fs", f"archive={other}")
    assert sentence == f"{other} does not hold CIFAR-FS, which would be cifar100/data"
    assert refusal(capsys, "prepare", "cifar_fs", "archive=none.zip") == "archive=none.zip is not a file"
    assert "put images_background.zip and" in refusal(capsys, "prepare", "omniglot", f"archive={other}")
    other.write_bytes(cifar.read_bytes()[:2000])
    assert f"{other} is " in refusal(capsys, "prepare", "cifar_fs", f"archive={other}")
    assert not list(home.rglob("*.png"))
    assert not list((home / "data").iterdir())
    assert not list(home.glob("cache/*"))


def test_what_stands_in_the_folder_is_never_overwritten(
    home: Path, cifar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "data/cifar-fs/cifar100").mkdir(parents=True)
    (home / "data/cifar-fs/cifar100/mine").touch()
    sentence = refusal(capsys, "prepare", "cifar_fs", f"archive={cifar}")
    assert sentence.startswith(f"{home}/data/cifar-fs holds another cifar100: move it away")
    assert everything(home / "data") == {"cifar-fs/cifar100/mine"}


def test_what_a_killed_process_has_unpacked_is_unpacked_again(
    home: Path, cifar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = sources._unpack

    def prepare_and_die() -> None:
        def write_and_die(archive: Path, folder: Path) -> Iterator[tuple[int, None]]:
            yield next(write(archive, folder))
            os._exit(7)

        sources._unpack = write_and_die  # type: ignore[assignment]
        main(["data", "prepare", "cifar_fs", f"archive={cifar}"])

    assert in_a_fork(prepare_and_die) == 7
    assert not (home / "data/cifar-fs").exists()
    assert list((home / "data").rglob("*.png"))
    assert command(capsys, "prepare", "cifar_fs", f"archive={cifar}")[0] == 0
    assert [path.name for path in (home / "data").iterdir()] == ["cifar-fs"]


# verify and path


def test_verify_says_what_is_there(home: Path, birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refusal(capsys, "verify", "cub")
    assert sentence.startswith(f"CUB-200-2011 is not in {home}/data/cub, and not packed: its licence")
    command(capsys, "prepare", "cub", f"archive={birds}")
    (path,) = (home / "cache").iterdir()
    code, out, _ = command(capsys, "verify", "cub")
    assert code == 0
    source, packed = out.splitlines()
    about = source.removeprefix(f"source {home}/data/cub: ")
    assert about.startswith("4 classes, 11 images, fingerprint ")
    assert packed == f"packed {path}: {about}"
    path.unlink()
    assert command(capsys, "verify", "cub")[1].splitlines() == [source, "packed: not yet"]


def test_verify_finds_a_changed_source_and_a_changed_packed_file(
    home: Path, cifar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(capsys, "prepare", "cifar_fs", f"archive={cifar}")
    image = home / "data/cifar-fs/cifar100/data/bear/bear_s_000001.png"
    whole = image.read_bytes()
    image.write_bytes(png(picture(9, (32, 32))))
    assert "bear does not hold CIFAR-FS's 2 images" in refusal(capsys, "verify", "cifar_fs")
    image.write_bytes(whole)
    (path,) = (home / "cache").iterdir()
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    code, out, err = command(capsys, "verify", "cifar_fs")
    assert code == 1
    assert out.startswith("source ")
    assert f"{path} is damaged (" in err


def test_verify_reads_large_packed_files_too(
    home: Path, cifar: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "READ_AT_EVERY_START", 0)
    command(capsys, "prepare", "cifar_fs", f"archive={cifar}")
    (path,) = (home / "cache").glob("*.safetensors")
    content, when = path.read_bytes(), path.stat().st_mtime_ns
    path.unlink()
    path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    os.utime(path, ns=(when, when))
    assert command(capsys, "prepare", "cifar_fs")[0] == 0
    assert f"{path} is damaged (" in command(capsys, "verify", "cifar_fs")[2]


def test_verify_finds_that_another_folder_was_packed(
    home: Path, birds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that was changed in its place, and kept its size: no start can see that."""
    command(capsys, "prepare", "cub", f"archive={birds}")
    image = home / "data/cub/CUB_200_2011/images/002.Auk/Bird_9.jpg"
    other = png(picture(77, (9, 9)))
    image.write_bytes(other + bytes(image.stat().st_size - len(other)))
    code, _, err = command(capsys, "verify", "cub")
    assert code == 1
    (path,) = (home / "cache").iterdir()
    assert f"{path} holds other images than {home}/data/cub: delete it, and they are packed again" in err


def test_verify_of_a_packed_set_without_its_source(
    home: Path, letters: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    command(capsys, "prepare", "omniglot")
    for path in (home / "data/omniglot").iterdir():
        path.unlink()
    code, out, _ = command(capsys, "verify", "omniglot")
    assert code == 0
    assert out.splitlines()[0] == f"source {home}/data/omniglot: missing"
    assert "there was nothing to do" in command(capsys, "prepare", "omniglot")[1]


def test_path_says_where(home: Path, letters: Server, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, "path", "omniglot")
    assert (code, out) == (0, f"{home}/data/omniglot\n")
    assert "Omniglot is not in" in err
    assert "is not packed yet" in err
    command(capsys, "prepare", "omniglot")
    (path,) = (home / "cache").iterdir()
    assert command(capsys, "path", "omniglot") == (0, f"{home}/data/omniglot\n{path}\n", "")


def test_a_packed_set_needs_no_metalearn_data(
    home: Path, letters: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(capsys, "prepare", "omniglot")
    (path,) = (home / "cache").iterdir()
    monkeypatch.delenv("METALEARN_DATA")
    unset = "METALEARN_DATA is not set, so that the source of Omniglot is not looked for\n"
    assert command(capsys, "path", "omniglot") == (0, f"{path}\n", unset)
    code, out, err = command(capsys, "verify", "omniglot")
    assert (code, err) == (0, "")
    assert out.startswith(f"source: METALEARN_DATA is not set\npacked {path}: 2 classes, 40 images")
    assert "there was nothing to do" in command(capsys, "prepare", "omniglot")[1]
    assert command(capsys, "path", "omniglot", f"root={home}/data/omniglot")[1].startswith(f"{home}/data/omniglot\n")


# The command line


def test_mistakes_are_sentences(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(capsys, "prepare", "omniglott") == "there is no data set omniglott: did you mean omniglot?"
    assert refusal(capsys, "verify", "cub", "archive=a") == "data verify does not know archive=a: give root=..."
    assert "data prepare does not know x: give archive=... and root=..." in refusal(capsys, "prepare", "cub", "x")
    monkeypatch.delenv("METALEARN_DATA")
    assert refusal(capsys, "path", "cub").startswith("METALEARN_DATA is not set")
    for arguments in ([], ["prepare"], ["prepair", "cub"], ["clean"], ["list", "cub"]):
        code, _, err = command(capsys, *arguments)
        assert code == 2
        assert "see metalearn data --help" in err


def test_help_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert "metalearn data prepare omniglot" in command(capsys, "--help")[1]
    assert completions(["da"]) == ["data "]
    assert completions(["data", "p"]) == ["path ", "prepare "]
    assert completions(["data", ""]) == ["clean ", "list ", "path ", "prepare ", "verify "]
    assert completions(["data", "verify", "c"]) == ["cifar_fs ", "cub "]
    assert completions(["data", "prepare", "cub", ""]) == ["archive=", "root="]
    assert completions(["data", "path", "cub", ""]) == ["root="]


def test_list_says_what_is_found(home: Path, letters: Server, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "prepare", "omniglot")
    assert main(["list", "task"]) == 0
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert " ".join(lines["omniglot"].split()[1:]) == "found 1,623 classes 32,460 images MIT Lake et al. 2015"
    assert " ".join(lines["cub"].split()[1:]) == "missing 200 classes 11,788 images research only Wah et al. 2011"
    assert max(len(lines[name]) for name in about_sets()) <= 100
    assert f"data sets are looked for in {home}/data" in err
    assert "Finn et al. 2017" in lines["sinusoid"]


def test_every_data_set_is_a_task_and_reads_what_the_list_says() -> None:
    for name, known in about_sets().items():
        assert name in list_choices("task")
        assert known.folder == known.folder.lower()
    assert about_sets()["omniglot"] == Omniglot.about
