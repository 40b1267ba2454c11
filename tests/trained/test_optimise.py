"""Bayesian optimisation: searches whose end is known, and the command from a run to its files."""

import json
import sys
import xml.dom.minidom
from pathlib import Path

import pytest
import torch
from commands import refuse, succeed
from torch import Tensor

from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Support
from metalearn_cli.tasks.gaussian_process import GaussianProcess
from metalearn_cli.tasks.likelihood import EXACT, Bars, Likelihood
from metalearn_cli.trained.gp_regression import gp_outputs
from metalearn_cli.trained.optimise import Acquisition, Problem, merit_of, search

SHORT = ["steps=2", "eval_every=0", "select=last", "test_episodes=4", "threads=1"]
FEW = ["functions=4", "steps=3", "points=20", "threads=1"]


def problem(steps: int, points: int = 12, noise: float = 0.0) -> Problem:
    rng = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, points).view(1, -1, 1).expand(5, -1, -1)
    drawn = noise * torch.randn(5, steps, generator=rng)
    start = torch.randint(points, (5, 1), generator=rng)
    return Problem(x, torch.randn(5, points, generator=rng), drawn, start, torch.arange(5))


@pytest.mark.parametrize("acquisition", Acquisition)
def test_who_knows_the_function_asks_for_its_maximum_first(acquisition: Acquisition) -> None:
    asked = problem(3)

    def knows(support: Support, x: Tensor) -> tuple[Likelihood, Tensor]:
        return EXACT, torch.stack([asked.values, torch.full_like(asked.values, -12.0)], -1)

    regrets = torch.stack(list(search(knows, acquisition, asked)))
    assert torch.equal(regrets[0], asked.values.amax(1) - asked.values.gather(1, asked.start)[:, 0])
    assert regrets[0].amax() > 0
    assert regrets[1:].abs().max() == 0


def test_a_search_asks_for_each_point_once_and_is_told_of_all_that_it_has_asked_for_with_their_noise() -> None:
    asked, known = problem(11, noise=0.3), []

    def remembers(support: Support, x: Tensor) -> tuple[Likelihood, Tensor]:
        known.append(support)
        return EXACT, torch.zeros(5, 12, 2)  # all points alike

    for surrogate in (remembers, None):
        regrets = torch.stack(list(search(surrogate, Acquisition.ei, asked)))
        assert (regrets.diff(dim=0) <= 0).all()
        assert regrets[-1].abs().max() == 0  # all 12 points
    assert [support.x.shape[1] for support in known] == list(range(1, 12))
    last = known[-1]
    places = (last.x - asked.x.mT).abs().argmin(2)
    assert all(len(set(row)) == 11 for row in places.tolist())
    torch.testing.assert_close(last.y[..., 0], asked.values.gather(1, places) + asked.noise)


def test_acquisitions_are_what_they_say() -> None:
    out, best = torch.tensor([[[0.0, 0.0], [1.0, -2.0]]], dtype=torch.float64), torch.tensor([0.5])
    chance = torch.tensor([[0.5, 0.975]], dtype=torch.float64)
    deviation = torch.tensor([1.0, 1.0]).double() * out[0, :, 1].exp()
    ucb = merit_of(Acquisition.ucb, EXACT, out, best, chance)[0]
    torch.testing.assert_close(ucb, out[0, :, 0] + 1.959964 * deviation, rtol=1e-6, atol=0)
    sample = merit_of(Acquisition.thompson, EXACT, out, best, chance)[0]
    assert sample.tolist() == pytest.approx([0.0, ucb[1].item()])
    for likelihood in (EXACT, Bars(8)):
        outputs = torch.randn(1, 1, likelihood.width, generator=generator(0), dtype=torch.float64)
        share = (torch.arange(200_000, dtype=torch.float64).view(1, -1, 1) + 0.5) / 200_000
        samples = likelihood.quantile(outputs.expand(1, 200_000, -1), share)[0, :, 0]
        gain = merit_of(Acquisition.ei, likelihood, outputs, best, chance[:, :1]).item()
        assert gain == pytest.approx((samples - 0.5).clamp(min=0).mean().item(), rel=0.02)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_gaussian_process_of_scikit_learn_is_near_the_exact_posterior() -> None:
    pytest.importorskip("sklearn")
    task = GaussianProcess()
    draw = task.draw(4, "train", generator(3))
    x = torch.linspace(-2, 2, 30).view(1, -1, 1).expand(4, -1, -1)
    values, _ = task.functions(draw, x)
    support, key = x[:, ::2], draw["key"]
    likelihood, out = gp_outputs(Support(support, values[:, ::2], key), x)
    assert likelihood == EXACT
    mean, deviation = EXACT.moments(out)
    torch.testing.assert_close(mean[:, ::2].float(), values[:, ::2], rtol=0, atol=0.2)
    assert (deviation[:, 1::2].mean() > deviation[:, ::2].mean()).item()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    succeed(home, "train", "algo=cnp", "algo.width=8", "task=gaussian_process", *SHORT, "name=one")
    return home


def test_a_run_searches_beside_the_others_and_the_files_say_the_same_again(home: Path) -> None:
    done = succeed(home, "optimise", "run=outputs/one", *FEW)
    assert " ".join(done.out.splitlines()[1].split()) == "queries model +- 95% random +- 95% oracle +- 95%"
    path = home / "outputs/one/optimise-ei.json"
    content = json.loads(path.read_text())
    assert content["keys"]["functions"] == 4
    regret = content["simple_regret"]
    assert [*regret] == ["model", "random", "oracle"]
    assert len({curve["mean"][0] for curve in regret.values()}) == 1  # one start for all
    assert all(len(curve["mean"]) == len(curve["ci95"]) == 4 for curve in regret.values())
    assert f"{regret['oracle']['mean'][3]:.4f}" in done.out
    xml.dom.minidom.parse(str(path.with_suffix(".svg")))
    succeed(home, "optimise", "run=outputs/one", *FEW, "out=again.json")
    assert json.loads((home / "again.json").read_text())["simple_regret"] == regret
    succeed(home, "optimise", "run=outputs/one", *FEW, "acquisition=thompson", "against=[random]", "out=other.json")
    other = json.loads((home / "other.json").read_text())["simple_regret"]
    assert other["random"] == regret["random"]
    assert other["model"] != regret["model"]


def test_curves_with_noise_are_searched_too_and_have_no_posterior(home: Path) -> None:
    keys = ["algo=maml", "task=sinusoid", "task.noise=0.1", "algo.test_steps=1", "model.hidden=[8]", *SHORT]
    succeed(home, "train", *keys, "task.likelihood=gaussian", "name=curve")
    done = succeed(home, "optimise", "run=outputs/curve", *FEW, "acquisition=ucb")
    assert "oracle" not in done.out
    sentence = "against=[oracle]: the task of outputs/curve has no exact posterior: leave oracle out"
    assert sentence in refuse(home, "optimise", "run=outputs/curve", "against=[oracle]")
    succeed(home, "train", *keys, "name=values")
    assert "outputs/values tells no density of a value, which ei needs" in refuse(
        home, "optimise", "run=outputs/values"
    )


def test_a_table_has_no_functions_and_mistakes_are_sentences(home: Path) -> None:
    (home / "t.csv").write_text("task,x,y\n" + "".join(f"{n // 6},{n % 6},{n}\n" for n in range(90)))
    task = ["task=table", "task.root=t.csv", "task.shot=3", "task.query=3", "task.likelihood=gaussian"]
    succeed(home, "train", "algo=cnp", "algo.width=8", *task, *SHORT[:3], "threads=1", "name=table")
    mistakes = {
        "the task of outputs/table has no functions of one number that can be asked": ["run=outputs/table"],
        "optimise needs run=: metalearn optimise run=outputs/my-run": [],
        "optimise has no key step: did you mean steps?": ["run=outputs/one", "step=3"],
        "out=x.txt must be a file whose name ends in .json": ["run=outputs/one", "out=x.txt"],
        "acquisition=best must be one of ei, ucb, thompson": ["run=outputs/one", "acquisition=best"],
        "against=[gpp] must be some of random, gp and oracle": ["run=outputs/one", "against=[gpp]"],
        "steps=0 must be a whole number, 1 or above": ["run=outputs/one", "steps=0"],
    }
    for sentence, words in mistakes.items():
        said = refuse(home, "optimise", *words)
        assert sentence in said, said
    absent = refuse(home, "optimise", "run=outputs/one", *FEW, "against=[gp]", first=lambda: hide("sklearn.exceptions"))
    assert absent == "metalearn: against=[gp] needs scikit-learn: pip install 'metalearn-cli[optimise]'"


def hide(package: str) -> None:
    sys.modules[package] = None  # type: ignore[assignment]
