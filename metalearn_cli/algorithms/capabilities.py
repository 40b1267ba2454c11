"""What an algorithm may offer besides what every algorithm has, and what holds for one that does not.

A class offers something by having the member, and inherits nothing for it. It is asked for by the functions here.

Shapes: T tasks, Q query examples.
"""

from typing import Protocol, TypeGuard

from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.likelihood import Likelihood


class Offers(Protocol):
    """Each on its own. The functions say what each one is."""

    def steps_at_test(self, spec: Spec) -> int: ...
    def batch_norm_at_test(self, spec: Spec) -> BatchNorm: ...
    def images_in_batch(self, spec: Spec) -> int | None: ...
    def learned(self, meta: Meta) -> dict[str, float]: ...
    def network(self, meta: Meta) -> Params: ...
    def require_way(self, trained: int, way: int) -> None: ...
    def require_range(self, low: float, high: float) -> None: ...
    def conditionals(self, net: Net, meta: Meta, batch: Batch) -> tuple[Likelihood, Tensor] | None: ...


def offers(algorithm: Algorithm, member: str) -> TypeGuard[Offers]:
    """Whether the class has this member of Offers."""
    return hasattr(type(algorithm), member)


def steps_at_test(algorithm: Algorithm, spec: Spec) -> int:
    """Inner steps at validation and test, for tasks of this kind."""
    return algorithm.steps_at_test(spec) if offers(algorithm, "steps_at_test") else algorithm.test_steps or 0


def batch_norm_at_test(algorithm: Algorithm, spec: Spec) -> BatchNorm:
    """The mode in which the algorithm's paper reports, for tasks of this kind."""
    return algorithm.batch_norm_at_test(spec) if offers(algorithm, "batch_norm_at_test") else algorithm.batch_norm


def images_in_batch(algorithm: Algorithm, spec: Spec) -> int | None:
    """The images of all training classes in a batch, of which a step takes tasks_per_step; None: it takes tasks."""
    return algorithm.images_in_batch(spec) if offers(algorithm, "images_in_batch") else None


def learned(algorithm: Algorithm, meta: Meta) -> dict[str, float]:
    """Numbers about the meta-parameters that a person would like to know, for results.json and the screen."""
    return algorithm.learned(meta) if offers(algorithm, "learned") else {}


def network(algorithm: Algorithm, meta: Meta) -> Params:
    """What was learned of the network, by its own names; there may be more."""
    return algorithm.network(meta) if offers(algorithm, "network") else meta.params


def require_way(algorithm: Algorithm, trained: int, way: int) -> None:
    """Raises UserError where a model for `trained` classes cannot start to learn tasks of `way` other ones."""
    if offers(algorithm, "require_way"):
        algorithm.require_way(trained, way)


def require_range(algorithm: Algorithm, low: float, high: float) -> None:
    """Raises UserError where the inputs of a task, which go from `low` to `high`, are not what its keys are for."""
    if offers(algorithm, "require_range"):
        algorithm.require_range(low, high)


def conditionals(algorithm: Algorithm, net: Net, meta: Meta, batch: Batch) -> tuple[Likelihood, Tensor] | None:
    """The prediction of each query value given the support set and the query values before it, as outputs [T, Q,
    outputs] of a likelihood: their sum is a joint log-likelihood. None: each query is predicted by itself."""
    return algorithm.conditionals(net, meta, batch) if offers(algorithm, "conditionals") else None
