"""Each thing that an algorithm may offer is asked for by its own name, and is nothing where it is absent."""

from typing import Any

import pytest
from problems import points

from metalearn_cli.algorithms import capabilities as of
from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.reptile import Reptile
from metalearn_cli.nets.linear import Linear
from metalearn_cli.tasks.base import Spec
from metalearn_cli.tasks.likelihood import SquaredError

SPEC, META = Spec((1,), 1, 1, SquaredError()), Meta({}, {})
BATCH = points()[1]
ASK: dict[str, Any] = {
    "steps_at_test": lambda algorithm: of.steps_at_test(algorithm, SPEC),
    "batch_norm_at_test": lambda algorithm: of.batch_norm_at_test(algorithm, SPEC),
    "images_in_batch": lambda algorithm: of.images_in_batch(algorithm, SPEC),
    "learned": lambda algorithm: of.learned(algorithm, META),
    "network": lambda algorithm: of.network(algorithm, META),
    "require_way": lambda algorithm: of.require_way(algorithm, 5, 6),
    "require_range": lambda algorithm: of.require_range(algorithm, -1.0, 1.0),
    "conditionals": lambda algorithm: of.conditionals(algorithm, Linear(SPEC), META, BATCH),
}
OTHERWISE = dict(zip(ASK, (50, BatchNorm.one_query, None, {}, {}, None, None, None), strict=True))


@pytest.mark.parametrize("member", ASK)
def test_a_member_is_asked_for_by_its_name(member: str) -> None:
    calls: list[str] = []
    algorithm = type("Mine", (Reptile,), {member: lambda self, *arguments: calls.append(member) or "mine"})()
    answers = {name: ask(algorithm) for name, ask in ASK.items()}
    assert calls == [member]
    assert answers == OTHERWISE | ({} if member.startswith("require_") else {member: "mine"})
    assert {name for name in vars(of.Offers) if not name.startswith("_")} == ASK.keys()
