"""Which classes ImageNet-1k's names name."""

import re
from pathlib import Path

import pytest

from metalearn_cli.datasets import imagenet
from metalearn_cli.datasets.image_set import read_list
from metalearn_cli.datasets.imagenet import is_in_imagenet, last_word

LIST = Path(imagenet.__file__).with_name("imagenet_classes.txt")


def test_the_list_has_a_thousand_classes_in_their_order() -> None:
    lines = LIST.read_text().splitlines()
    numbers = [line[:9] for line in lines]
    assert len(lines) == 1000
    assert numbers == sorted({*numbers})
    assert all(re.fullmatch(r"n\d{8} [A-Za-z][A-Za-z ,.'-]+", line) for line in lines)
    assert (lines[0], lines[-1]) == (
        "n01440764 tench, Tinca tinca",
        "n15075141 toilet tissue, toilet paper, bathroom tissue",
    )


@pytest.mark.parametrize(
    "name", ["bed", "bicycle", "chimpanzee", "fox", "leopard", "pickup_truck", "snail", "sweet_pepper", "table"]
)
def test_what_has_the_last_word_of_a_name_is_named(name: str) -> None:
    assert is_in_imagenet(name)


@pytest.mark.parametrize(
    "name", ["baby", "man", "woman", "plain", "poppy", "rose", "maple_tree", "rocket", "07", "Мышь"]
)
def test_what_has_it_not_is_not(name: str) -> None:
    """A rose hip is no rose, a man-eater no man; and a missile is a rocket by another name, which nothing here sees."""
    assert not is_in_imagenet(name)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        *(("002.Laysan_Albatross", "albatross"), ("PickupTrucks", "truck"), ("day-bed", "bed"), ("bus", "bus")),
        *(("animals/big dogs", "dog"), ("jack-o'-lantern", "lantern"), ("cherries", "cherry"), ("boxes", "box")),
        *(("sea-wolves", "wolf"), ("school_buses", "bus"), ("houses", "house"), ("knives", "knife")),
        *(("valves", "valve"), ("gloves", "glove"), ("leaves", "leaf"), ("volcanoes", "volcano"), ("mice", "mouse")),
        *(("n02085620-Chihuahua", "chihuahua"), ("glasses", "glass"), ("gas", "gas"), ("0123", "")),
    ],
)
def test_the_last_word_of_a_name_of_a_folder(name: str, word: str) -> None:
    assert last_word(name.rpartition("/")[2]) == word


def test_all_of_the_sets_that_were_made_of_it_are_in_it() -> None:
    for name in ("mini_imagenet", "tiered_imagenet"):
        assert all(is_in_imagenet(listed.name) for listed in read_list(name))
    assert not any(is_in_imagenet(listed.name) for listed in read_list("omniglot"))


def test_the_test_classes_of_cifar_fs() -> None:
    names = [listed.name for listed in read_list("cifar_fs") if listed.split == "test"]
    others = {name for name in names if not is_in_imagenet(name)}
    assert others == {"baby", "man", "plain", "poppy", "rocket", "rose", "woman"}
