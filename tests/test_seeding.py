import torch
from torch.fx.experimental.proxy_tensor import make_fx

from metalearn_cli.seeding import generator, normals, uniform


def test_the_same_key_gives_the_same_numbers_and_another_key_others() -> None:
    first, again = (torch.rand(8, generator=generator(3, "train", 5)) for _ in range(2))
    assert torch.equal(first, again)
    for other in ((3, "train", 6), (3, "val", 5), (4, "train", 5), ("3", "train", 5)):
        assert not torch.equal(first, torch.rand(8, generator=generator(*other)))


def test_a_slice_of_the_tasks_sees_the_numbers_of_the_whole() -> None:
    key = torch.randint(2**63 - 1, (10,), generator=torch.Generator().manual_seed(0))
    whole = uniform(key, 1, 2, shape=(3, 4))
    assert whole.shape == (10, 3, 4)
    assert torch.equal(whole[3:7], uniform(key[3:7], 1, 2, shape=(3, 4)))


def test_numbers_are_uniform_and_differ_between_tasks_and_salts() -> None:
    key = torch.arange(100)
    numbers = uniform(key, 7, shape=(1000,))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, bins=50, min=0, max=1)
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 85.4  # the 99.9% quantile with 49 degrees of freedom
    assert len(numbers.unique()) > 99_000
    assert not torch.equal(numbers, uniform(key, 8, shape=(1000,)))
    neighbours = torch.corrcoef(torch.stack([numbers[:-1].flatten(), numbers[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 0.02


def test_the_bits_are_pinned() -> None:
    """A change here changes every run that draws inside a task."""
    assert uniform(torch.tensor([0, 2**62]), 1, shape=(2,)).mul(2**24).long().tolist() == PINNED


PINNED = [[17268, 8832995], [12827939, 2193515]]


def test_what_is_drawn_within_a_task_is_one_operation_to_a_compiler() -> None:
    """Inductor would compute the integers otherwise, and say nothing."""
    recorded = make_fx(lambda key: (uniform(key, -1, shape=(2, 10)), normals(key, 3, count=4)))(torch.arange(3))
    called = [str(node.target) for node in recorded.graph.nodes if node.op == "call_function"]
    assert called == ["metalearn.uniform.default", "aten.view.default", "metalearn.normals.default"]
