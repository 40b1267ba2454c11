"""Each thing that a task may offer is asked for by its own name, and is nothing where it is absent."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.errors import UserError
from metalearn_cli.tasks import capabilities as of
from metalearn_cli.tasks.base import Draw, Split, Support, TaskDistribution
from metalearn_cli.tasks.quadratics import Quadratics
from metalearn_cli.tasks.resized import ResizedImages

CPU, RNG, SPLIT = torch.device("cpu"), torch.Generator(), "test"
DRAW: Draw = {}
NONE = torch.tensor([], dtype=torch.int64)
# How each member is asked for, and the answer of a task without it.
ASK: dict[str, tuple[Callable[[TaskDistribution], Any], Any]] = {
    "check_split": (lambda task: of.check_split(task, SPLIT), None),
    "identities": (lambda task: of.identities(task, SPLIT), frozenset()),
    "class_names": (lambda task: of.class_names(task, SPLIT), []),
    "label_names": (lambda task: of.label_names(task, DRAW), ()),
    "task_count": (lambda task: of.task_count(task, SPLIT), None),
    "draw_numbers": (lambda task: of.draw_numbers(task, NONE, SPLIT, RNG), UserError),
    "draw_classes": (lambda task: of.draw_classes(task, 1, 2, RNG), UserError),
    "oracle": (lambda task: of.oracle(task, DRAW, CPU), None),
    "joint_oracle": (lambda task: of.joint_oracle(task, DRAW, CPU), None),
    "functions": (lambda task: of.functions(task, DRAW, NONE), None),
    "posterior": (lambda task: of.posterior(task, DRAW, Support(NONE, NONE, NONE), NONE), None),
    "least_squares": (lambda task: of.least_squares(task, DRAW, CPU), None),
    "thumbnails": (lambda task: of.thumbnails(task, DRAW, CPU), None),
    "notes": (of.notes_of, []),
    "make_ready": (lambda task: of.make_ready(task, SPLIT), None),
    "may_wait_for_disk": (lambda task: of.may_wait_for_disk(task, CPU), False),
    "preparation": (of.preparation_of, None),
    "columns": (of.columns_of, None),
}


def offering(member: str, answer: Any) -> TaskDistribution:
    """A user's task that has this member, and inherits nothing for it."""
    is_property = member in ("preparation", "columns")
    value = property(lambda self: answer) if is_property else lambda self, *arguments: answer
    made: TaskDistribution = type("Mine", (Quadratics,), {member: value})()
    return made


def test_each_member_has_its_question() -> None:
    assert {name for name in vars(of.Offers) if not name.startswith("_")} == ASK.keys()


@pytest.mark.parametrize("member", ASK)
def test_a_member_is_asked_for_by_its_name(member: str) -> None:
    task = offering(member, ["mine"])
    for name, (ask, otherwise) in ASK.items():
        if name == member and name not in ("check_split", "make_ready"):
            assert ask(task) == ["mine"]
        elif otherwise is UserError:
            with pytest.raises(UserError, match=f"the task Mine has .*, and needs {name} with it"):
                ask(task)
        elif (name, member) != ("class_names", "identities"):
            assert ask(task) == otherwise


def test_a_split_is_refused_by_the_task_itself() -> None:
    class Mine(Quadratics):
        def check_split(self, split: Split) -> None:
            raise UserError(f"no {split}")

    with pytest.raises(UserError, match="no val"):
        of.check_split(Mine(), "val")


def test_names_of_classes_are_the_identities_in_order() -> None:
    assert of.class_names(offering("identities", frozenset({"b", "a"})), SPLIT) == ["a", "b"]


def test_to_ask_reads_no_data_and_hides_no_mistake() -> None:
    class Mine(Quadratics):
        @property
        def columns(self) -> ColumnNames:
            raise AttributeError("a mistake in it")

    assert of.offers(Mine(), "columns")
    with pytest.raises(AttributeError, match="a mistake in it"):
        of.columns_of(Mine())


@pytest.mark.parametrize("member", sorted(set(dir(ResizedImages)) & ASK.keys()))
def test_resized_images_offer_what_their_task_does(member: str) -> None:
    ask, otherwise = ASK[member]
    resized = ResizedImages(offering(member, ["mine"]), (10,))
    if member == "notes":
        assert ask(resized)[0] == "mine"
    elif member != "check_split":
        assert ask(resized) == ["mine"]
        if otherwise is not UserError:
            assert ask(ResizedImages(Quadratics(), (10,))) == otherwise
