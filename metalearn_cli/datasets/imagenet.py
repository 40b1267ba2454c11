"""Which classes ImageNet-1k has too, as far as names tell: those on which most networks with weights were trained.

imagenet_classes.txt lists the 1,000 classes in their order: the number of a WordNet synset and its English words
(Princeton WordNet 3.0). A class is named where its number is listed, or where its last word is the last one of a name
in the list, which in English says what a thing is: a "sweet pepper" is named by "bell pepper", a "maple tree" by none.
So a doubtful class counts as named. A thing by another word (a rocket is a "missile" there), in another language, or
beside the subject of a picture is not found.
"""

import re
from functools import cache
from pathlib import Path

SOURCE = "ImageNet-1k"
# Ends of words, the first that fits: those of "valves" and "houses" come before those of "wolves" and "buses".
_PLURALS = (
    *(("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("ouses", "ouse"), ("uses", "us")),
    *(("valves", "valve"), ("curves", "curve"), ("lves", "lf"), ("rves", "rf"), ("eaves", "eaf"), ("oaves", "oaf")),
    *(("nives", "nife"), ("shoes", "shoe"), ("volcanoes", "volcano"), ("canoes", "canoe"), ("oes", "o"), ("s", "")),
    *(("mice", "mouse"), ("geese", "goose"), ("oxen", "ox")),
)


def is_in_imagenet(name: str) -> bool:
    """Whether a class of this name, as a folder has it, is one of ImageNet-1k's by its number or its last word."""
    name = name.rpartition("/")[2]
    numbers = set(re.findall(r"n\d{8}", name))
    return bool(numbers & _listed()[0]) or last_word(name) in _listed()[1]


def last_word(name: str) -> str:
    """The last English word of "002.Laysan_Albatross", "PickupTrucks" or "day-bed": "albatross", "truck", "bed"; empty:
    there is none."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("'", "")).lower())
    return _singular(words[-1]) if words else ""


def _singular(word: str) -> str:
    if len(word) < 4 or word.endswith(("ss", "us", "is")):
        return word
    for plural, singular in _PLURALS:
        if word.endswith(plural):
            return word.removesuffix(plural) + singular
    return word


@cache
def _listed() -> tuple[frozenset[str], frozenset[str]]:
    """The numbers of the classes, and the last words of their names."""
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    numbers, names = zip(*(line.split(" ", 1) for line in lines), strict=True)
    return frozenset(numbers), frozenset(last_word(word) for name in names for word in name.split(", "))
