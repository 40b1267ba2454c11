"""Omniglot: what is read, what is refused, and which tasks are drawn."""

import io
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from cases import load
from cases import refusal as refusal_of
from PIL import Image
from problems import image_task

from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import omniglot
from metalearn_cli.tasks.base import Split, draw_sha256, draw_slice
from metalearn_cli.tasks.episodes import Rotations
from metalearn_cli.tasks.likelihood import Categorical
from metalearn_cli.tasks.omniglot import CharacterResample, CharacterSplit, Omniglot

CPU = torch.device("cpu")
FEW = (0, 7, 1000)  # two characters of the first archive and one of the second
MEMBER = "images_background/Alphabet_of_the_Magi/character01/0709_07.png"


@pytest.fixture
def few(omniglot_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A folder with archives of three characters, the list cut down to them, and an empty cache."""
    listed = tuple(omniglot.characters()[c] for c in FEW)
    names = tuple(character.name for character in listed)
    for archive in ("images_background.zip", "images_evaluation.zip"):
        with zipfile.ZipFile(Path(omniglot_root) / archive) as real, zipfile.ZipFile(tmp_path / archive, "w") as copy:
            for name in real.namelist():
                if name.startswith(names) and name.endswith(".png"):
                    copy.writestr(name, real.read(name))
    monkeypatch.setattr(omniglot, "characters", lambda: listed)
    return tmp_path


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Pack an archive again with changed members; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)


refusal = partial(refusal_of, omniglot.source)


# The list and the splits, without images


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        (CharacterSplit.vinyals, {"train": 1028, "val": 172, "test": 423}),
        (CharacterSplit.random1200, {"train": 1200, "test": 423}),
        (CharacterSplit.random1100, {"train": 1100, "val": 100, "test": 423}),
    ],
)
def test_splits_part_the_1623_characters(split: CharacterSplit, sizes: dict[str, int]) -> None:
    parts = image_task(Omniglot, split=split).split_classes
    assert {name: len(part) for name, part in parts.items()} == sizes
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(1623))
    assert tuple(image_task(Omniglot, split=split).splits) == tuple(sizes)


def test_vinyals_split_is_by_alphabet_but_for_gurmukhi() -> None:
    alphabets: dict[str, set[str]] = {}
    for character in omniglot.characters():
        alphabets.setdefault(character.name.split("/")[1], set()).add(character.split)
    assert len(alphabets) == 50
    assert {name for name, parts in alphabets.items() if len(parts) > 1} == {"Gurmukhi"}
    assert {name for name, parts in alphabets.items() if parts == {"val"}} == {
        "Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"
    }  # fmt: skip


def test_list_is_sorted_and_its_hashes_differ() -> None:
    listed = omniglot.characters()
    assert list(listed) == sorted(listed)
    assert len({character.sha256 for character in listed}) == 1623


def test_random_splits_share_test_characters_and_follow_the_seed() -> None:
    tests = [
        image_task(Omniglot, split=split, split_seed=seed).split_classes["test"]
        for seed in (0, 1)
        for split in (CharacterSplit.random1200, CharacterSplit.random1100)
    ]
    assert torch.equal(tests[0], tests[1])
    assert torch.equal(tests[2], tests[3])
    assert not torch.equal(tests[0].sort().values, tests[2].sort().values)


# Reading the archives


def test_real_archives_give_the_known_pixels(omniglot_root: str) -> None:
    images = load(omniglot.source(omniglot_root))
    assert images.pixels.shape == (32460, 1, 28, 28)
    assert images.pixels.flatten().bincount().nonzero().flatten().tolist() == [0, 255]
    assert images.names == tuple(character.name for character in omniglot.characters())
    assert torch.equal(images.start, 20 * torch.arange(1623))
    assert torch.equal(images.count, torch.full((1623,), 20))
    assert images.fingerprint == "19db544bafe58b5bb9191a0ce69da1efff4b349d459b803945a4e18d1689c23b"
    assert image_task(Omniglot, root=omniglot_root).fingerprint == images.fingerprint


def test_pixels_are_inverted_and_resized_as_asked(few: Path) -> None:
    with zipfile.ZipFile(few / "images_background.zip") as archive:
        original = Image.open(io.BytesIO(archive.read(MEMBER)))
        original.load()
    assert original.mode == "1"
    papers = original.resize((28, 28), Image.Resampling.LANCZOS).convert("L")  # their call, on a 1-bit image
    smooth = original.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    for resample, expected in ((CharacterResample.nearest, papers), (CharacterResample.lanczos, smooth)):
        pixels = load(omniglot.source(str(few), resample)).pixels[6, 0]  # character 0, image 07
        assert bytes(255 - pixels.flatten()) == expected.tobytes()
        assert pixels.float().mean() < 127, "most of an image is paper, which is 0"


def test_cached_set_needs_no_archives_but_those_of_a_root_that_is_given(few: Path) -> None:
    first = load(omniglot.source(str(few)))
    for archive in few.glob("*.zip"):
        archive.unlink()
    second = load(omniglot.source())
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.start, second.start)
    assert torch.equal(first.count, second.count)
    assert (first.names, first.fingerprint) == (second.names, second.fingerprint)
    for resample in CharacterResample:
        with pytest.raises(UserError, match="Omniglot is not in"):
            load(omniglot.source(str(few), resample))


@pytest.mark.row("C6")
def test_missing_archive_says_where_to_get_it(few: Path) -> None:
    (few / "images_evaluation.zip").unlink()
    assert f"Omniglot is not in {few}, which needs images_background.zip, images_evaluation.zip: " in refusal(few)


@pytest.mark.row("C6")
def test_no_root_says_what_to_set(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METALEARN_DATA", raising=False)
    with pytest.raises(UserError, match=r"METALEARN_DATA is not set.*task\.root"):
        load(omniglot.source())
    monkeypatch.setenv("METALEARN_DATA", str(few))
    with pytest.raises(UserError, match=f"Omniglot is not in {few}/omniglot,"):
        load(omniglot.source())
    (few / "omniglot").symlink_to(few)
    assert len(load(omniglot.source()).names) == len(FEW)


@pytest.mark.row("C7")
def test_flipped_byte_names_the_member(few: Path) -> None:
    path = few / "images_background.zip"
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(MEMBER)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(MEMBER) + info.compress_size // 2] ^= 0xFF
    path.write_bytes(data)
    sentence = refusal(few)
    assert sentence.startswith(f"{MEMBER} in {path} is damaged (Bad CRC-32")
    assert "metalearn data prepare omniglot fetches it again" in sentence


@pytest.mark.row("C7")
def test_truncated_archive_is_named(few: Path) -> None:
    path = few / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(few).startswith(f"{path} cannot be read as a zip archive (")


def as_png(image: Image.Image, **how: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", **how)
    return file.getvalue()


def grey(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("L")


# What becomes of a member, and of those that are added; and the sentence.
CHANGES: list[tuple[Callable[[str, bytes], bytes | None], dict[str, bytes], str]] = [
    (lambda name, data: None if name == MEMBER else data, {}, "has images 01, 02, 03, 04, 05, 06, 08, "),
    (lambda name, data: None if "Magi/character01" in name else data, {}, f"has images none of {MEMBER[:-12]} instead"),
    (
        lambda _, data: data,
        {"images_background/Klingon/1/0001_01.png": b""},
        "has images in images_background/Klingon/1,",
    ),
    (lambda name, data: as_png(grey(data).rotate(90)) if name == MEMBER else data, {}, f"{MEMBER[:-12]} in "),
    # of another shape with the same bytes
    (
        lambda name, data: as_png(Image.frombytes("L", (525, 21), grey(data).tobytes())) if name == MEMBER else data,
        {},
        "images_background.zip is 525 x 21 pixels instead of 105 x 105",
    ),
]


@pytest.mark.parametrize(("change", "more", "sentence"), CHANGES)
def test_a_changed_archive_is_named(
    few: Path, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes], sentence: str
) -> None:
    rewrite(few / "images_background.zip", change)
    with zipfile.ZipFile(few / "images_background.zip", "a") as archive:
        for name, data in more.items():
            archive.writestr(name, data)
    assert sentence in refusal(few)


def test_other_compression_of_the_same_pixels_is_accepted_and_other_members_are_ignored(few: Path) -> None:
    expected = load(omniglot.source(str(few))).fingerprint
    for path in (few / "cache").iterdir():
        path.unlink()
    rewrite(few / "images_background.zip", lambda _, data: as_png(grey(data), compress_level=1))
    with zipfile.ZipFile(few / "images_background.zip", "a") as archive:
        archive.writestr(f"__MACOSX/{MEMBER}", b"junk")
        archive.writestr("images_background/.DS_Store", b"junk")
    assert load(omniglot.source(str(few))).fingerprint == expected


# Tasks


def test_tasks_have_the_sizes_asked_for(omniglot_root: str) -> None:
    task = image_task(Omniglot, way=4, shot=2, query=3, train_way=6, train_query=1, root=omniglot_root)
    assert task.spec == ((1, 28, 28), 4, 6, Categorical(), False, True, 4112, False, False)
    sizes: tuple[tuple[Split, int, int], ...] = (("train", 6, 1), ("val", 4, 3), ("test", 4, 3))
    for split, way, query in sizes:
        batch = task.gather(task.draw(7, split, generator(split)), CPU)
        assert batch.support_x.shape == (7, way * 2, 1, 28, 28)
        assert batch.query_x.shape == (7, way * query, 1, 28, 28)
        assert batch.support_x.dtype == torch.float32
        assert set(batch.support_x.flatten().tolist()) == {0, 1}
        assert torch.equal(batch.support_y.sort().values, torch.arange(way).repeat_interleave(2).expand(7, -1))
        assert len(set(batch.key.tolist())) == 7


@pytest.mark.usefixtures("packed_omniglot")
@pytest.mark.parametrize("rotations", Rotations)
def test_a_draw_is_a_pure_function_of_its_key(rotations: Rotations) -> None:
    first, again, other = (
        image_task(Omniglot, rotations=rotations).draw(5, "test", generator(key)) for key in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_slice_of_a_draw_gives_the_slice_of_the_batch(omniglot_root: str) -> None:
    task = image_task(Omniglot, root=omniglot_root)
    draw = task.draw(6, "test", generator(0))
    whole, part = task.gather(draw, CPU), task.gather(draw_slice(draw, 2, 4), CPU)
    assert all(torch.equal(whole.tensors()[name][2:4], value) for name, value in part.tensors().items())


def test_every_image_of_a_task_shows_its_class_turned_alike(omniglot_root: str) -> None:
    pixels = load(omniglot.source(omniglot_root)).pixels.float() / 255
    for rotations in Rotations:
        task = image_task(Omniglot, way=20, shot=3, query=2, rotations=rotations, root=omniglot_root)
        draw = task.draw(1, "test", generator(0))
        batch = task.gather(draw, CPU)
        turned = rotations in (Rotations.as_classes, Rotations.per_episode)
        turns = set()
        for label in range(20):
            support, query = draw["support_y"][0] == label, draw["query_y"][0] == label
            images = torch.cat([draw["support_image"][0][support], draw["query_image"][0][query]])
            assert (images // 20 == images[0] // 20).all()
            x = torch.cat([batch.support_x[0][support], batch.query_x[0][query]])
            fits = [turn for turn in range(4) if torch.equal(x, pixels[images].rot90(turn, (-2, -1)))]
            assert len(fits) == 1
            turns.add(fits[0])
        assert turns == ({0, 1, 2, 3} if turned else {0})


@pytest.mark.usefixtures("packed_omniglot")
@pytest.mark.parametrize(
    ("rotations", "split"), [(Rotations.as_classes, "test"), (Rotations.train_as_classes, "train")]
)
def test_rotations_as_classes_make_four_classes_of_each_character(rotations: Rotations, split: Split) -> None:
    draw = image_task(Omniglot, way=20, rotations=rotations).draw(4000, split, generator(0))
    classes = draw["support_image"] // 20 * 4 + draw["support_turn"]
    assert classes.sort().values.diff().min() > 0, "no class is twice in a task"
    assert len(set(classes.flatten().tolist())) == 4 * (423 if split == "test" else 1028)


@pytest.mark.usefixtures("packed_omniglot")
def test_classes_of_training_only_leave_the_tests_characters_upright() -> None:
    draw = image_task(Omniglot, rotations=Rotations.train_as_classes).draw(4000, "test", generator(0))
    assert "support_turn" not in draw
    assert len(set((draw["support_image"] // 20).flatten().tolist())) == 423


@pytest.mark.usefixtures("packed_omniglot")
@pytest.mark.parametrize("split", CharacterSplit)
@pytest.mark.row("D4")
def test_classes_of_two_splits_never_meet_in_100_000_tasks(split: CharacterSplit) -> None:
    task = image_task(Omniglot, split=split, query=1, rotations=Rotations.none)
    seen: dict[str, torch.Tensor] = {}
    for name in task.splits:
        draws = [task.draw(2000, name, generator(name, block)) for block in range(50 // len(task.splits) + 1)]
        images = torch.cat([torch.cat([draw["support_image"], draw["query_image"]]) for draw in draws])
        seen[name] = images.flatten().bincount(minlength=32460) > 0
        drawn = seen[name].view(1623, 20).any(dim=1).nonzero().flatten()
        assert torch.equal(drawn, task.split_classes[name].sort().values)
    assert (torch.stack(list(seen.values())).sum(dim=0) == 1).all(), "each image is drawn, in one split"


@pytest.mark.usefixtures("packed_omniglot")
def test_training_on_train_and_val_leaves_the_test_episodes_and_no_validation() -> None:
    one, both = Omniglot(), image_task(Omniglot, train_splits=("train", "val"))
    assert both.splits == ("train", "test")
    test, same = (task.draw(64, "test", generator(0, "test", 0)) for task in (one, both))
    assert all(torch.equal(test[name], same[name]) for name in test)
    parts = Omniglot().split_classes
    drawn = both.draw(4000, "train", generator(0))["support_image"].flatten() // 20
    assert set(drawn.tolist()) == set(torch.cat([parts["train"], parts["val"]]).tolist())


@pytest.mark.usefixtures("packed_omniglot")
def test_default_draws_are_those_of_the_first_release() -> None:
    """Old results name these hashes: changing them makes old and new runs incomparable."""
    hashes = [
        draw_sha256(
            [image_task(Omniglot, train_way=20, train_query=5).draw(64, split, generator(split, b)) for b in range(3)],
            "",
        )
        for split in ("train", "val", "test")
    ]
    assert [sha256[:16] for sha256 in hashes] == ["97d04f6ace30bef9", "f287441a2115f9fa", "d44263a6f9a0e5a3"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"train_way": 4801, "train_splits": ("train", "val")},
            "task.train_way=4801 is more than the 4800 classes (by rotations=as_classes) of the train and val split",
        ),
        (
            {"train_splits": ("train", "val"), "split": CharacterSplit.random1200},
            "task.train_splits=[train,val] holds val, which is not a split to train on here: choose from train",
        ),
        (
            {"way": 1693},
            "task.way=1693 is more than the 1692 classes (by rotations=as_classes) of the test split",
        ),
        (
            {"shot": 6},
            "task.shot=6 and task.query=15 together are more than the 20 images of a class of the test split",
        ),
        ({"way": 1}, "task.way=1 must be a whole number, 2 or above"),
        ({"shot": 0}, "task.shot=0 must be a whole number, 1 or above"),
        ({"train_query": -1}, "task.train_query=-1 must be a whole number, 1 or above, or null"),
    ],
)
def test_impossible_request_is_a_sentence(
    fields: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Omniglot, "images", None)
    with pytest.raises(UserError) as caught:
        image_task(Omniglot, **fields)
    assert str(caught.value) == sentence
