"""`metalearn compare`, as a user gives it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run
from folders import rewrite, write_run

from metalearn_cli.commands.completion import completions

TINY = ["model.hidden=[8]", "algo.test_steps=2", "threads=1", "debug=quick", "steps=5", "eval_every=0", "select=last"]


def hard_episodes(seed: int, gain: float = 0.0, noise: float = 0.02, number: int = 200) -> np.ndarray:
    """Accuracies that the episode decides more than the run does."""
    hardness = np.random.default_rng(99).uniform(0.3, 0.7, number)
    return hardness + gain + np.random.default_rng(seed).normal(0, noise, number)


def said(folder: Path, *arguments: str) -> str:
    """What is printed, on one line."""
    done = run(folder, "compare", *arguments)
    assert done.code == 0, done.err
    return " ".join(done.out.split())


def written(folder: Path, *arguments: str) -> tuple[Any, str]:
    """What is written into a file, and what is printed."""
    text = said(folder, *arguments, "out=c.json")
    return json.loads((folder / "c.json").read_text()), text


def width(interval: dict[str, float]) -> float:
    return interval["high"] - interval["low"]


def test_two_runs_on_the_same_episodes(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs/a", hard_episodes(1))
    write_run(tmp_path / "outputs/b", hard_episodes(2, gain=0.03), config={"algo.inner_lr": 0.4})
    result, text = written(tmp_path, "outputs/a", "outputs/b")
    (difference,) = result["differences"]
    gain = hard_episodes(2, gain=0.03) - hard_episodes(1)
    half = 1.9719565442 * gain.std(ddof=1) / np.sqrt(200)  # t of 199 degrees of freedom
    assert difference["episodes"]["mean"] == pytest.approx(gain.mean())
    assert width(difference["episodes"]) == pytest.approx(2 * half)
    assert width(difference["unpaired"]) > 4 * width(difference["episodes"])
    assert difference["seeds"] is difference["both"] is None
    assert (difference["better_on"], difference["worse_on"]) == ((gain > 0).mean(), (gain < 0).mean())
    assert "on the same 200 test episodes (aaaaaaaaaaaaaaaa)" in text
    assert "algo.inner_lr: 0.1 / 0.4" in text
    assert f"{100 * gain.mean():+.2f}" in text
    assert "outputs/b is better than outputs/a by" in text
    assert "the noise of test episodes only, not of training" in text
    assert "one configuration" not in text


def test_baselines_of_the_first_episodes_stand_beside_those_and_the_most_are_taken(tmp_path: Path) -> None:
    for name, number, level in (("a", 40, 0.9), ("b", 200, 0.1), ("c", 0, 0.0)):
        folder = write_run(tmp_path / "outputs" / name, hard_episodes(ord(name)))
        if number:
            arrays = dict(np.load(folder / "episodes.npz"))
            np.savez(folder / "episodes.npz", **arrays, baseline_nearest_pixels=np.full(number, level))
            figures = {"nearest_pixels": {"mean": level, "ci95": 0.0, "median": level}}
            results = json.loads((folder / "results.json").read_text())
            rewrite(folder / "results.json", {**results, "baselines": figures, "baseline_episodes": number})
    result, text = written(tmp_path, "outputs/a", "outputs/c")
    assert result["baselines"] == {"nearest_pixels": {"mean": pytest.approx(0.9), "episodes": 40}}
    assert "1-NN on pixels, first 40 episodes 90.00" in text
    assert "nothing shows on these episodes that outputs/a is better than 1-NN on pixels" in text
    result, text = written(tmp_path, "outputs/a", "outputs/b")
    assert result["baselines"] == {"nearest_pixels": {"mean": pytest.approx(0.1), "episodes": 200}}
    assert "1-NN on pixels 10.00" in text


def test_the_sentence_tells_better_from_worse_and_from_not_known(tmp_path: Path) -> None:
    for name, seed, gain, metric in (
        *(("a", 1, 0.0, "accuracy"), ("b", 2, 0.0, "accuracy"), ("same", 1, 0.0, "accuracy")),
        *(("low", 1, 0.0, "mse"), ("high", 2, 0.05, "mse")),
        *(("less", 1, -3.0, "log_likelihood"), ("more", 2, -2.95, "log_likelihood")),
    ):
        write_run(tmp_path / name, hard_episodes(seed, gain), metric=metric)
    text = said(tmp_path, "low", "high")
    assert "high is worse than low by" in text
    assert "points" not in text
    assert "more is better than less by" in said(tmp_path, "less", "more")
    text = said(tmp_path, "a", "b")
    assert "These episodes do not tell b from a: the difference may be anything from -" in text
    assert "a and b are one configuration: what parts them is the noise" in text
    assert "a and same have the same result on every episode" in said(tmp_path, "a", "same")


def test_seeds_are_kept_apart_from_episodes(tmp_path: Path) -> None:
    """Runs that differ by luck of the seed: on the episodes it is sure, for models that are trained again it is not."""
    luck = {"a": (0.0, 0.05, -0.06), "b": (0.02, -0.04, 0.12)}
    for side, gains in luck.items():
        for seed, gain in enumerate(gains):
            values = hard_episodes(10 * seed + ord(side), gain)
            write_run(tmp_path / side / f"seed={seed}", values, seed, config={"algo.inner_lr": 0.1 + (side == "b")})
    result, text = written(tmp_path, "a", "b")
    (difference,) = result["differences"]
    assert difference["episodes"]["p"] < 1e-6
    assert difference["seeds"]["method"] == "paired t, by seed"
    assert difference["seeds"]["df"] == 2
    assert difference["seeds"]["p"] > 0.05
    assert width(difference["both"]) > width(difference["seeds"]) > 0.1
    assert "Nothing tells them apart" in text
    assert "though these very models differ" in text
    assert "(3 and 3 seeds)" in text
    # With other seeds on one side there is nothing to pair; with one seed there is no interval over seeds.
    write_run(tmp_path / "b" / "seed=7", hard_episodes(7), 7, config={"algo.inner_lr": 1.1})
    result, _ = written(tmp_path, "a", "b")
    assert result["differences"][0]["seeds"]["method"] == "Welch's t"
    assert "One side has a single seed (1 and 4)" in said(tmp_path, "a/seed=0", "b")


def test_several_against_the_first_with_holms_correction(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 0.0037), ("c", 0.1)):
        write_run(tmp_path / name, hard_episodes(ord(name), gain))
    result, text = written(tmp_path, "a", "b", "c")
    difference, other = result["differences"]
    assert (difference["second"], other["second"]) == ("b", "c")
    assert difference["p_holm"] == difference["episodes"]["p"]
    assert other["p_holm"] == 2 * other["episodes"]["p"]
    assert "p after Holm's correction for 2 comparisons with a" in text


def test_a_sweep_of_several_configurations_is_several_sides(tmp_path: Path) -> None:
    for rate, gain in ((0.1, 0.0), (0.4, 0.05)):
        for seed in (0, 1, 10):
            name = f"sw/algo.inner_lr={rate},seed={seed}"
            own = {"algo.inner_lr": rate}
            write_run(tmp_path / name, hard_episodes(seed, gain), seed, config=own, overrides=own)
    for arguments in (["sw"], ["sw/*0.1,*", "sw/*0.4,*"]):
        result, _ = written(tmp_path, *arguments)
        assert [side["seeds"] for side in result["sides"]] == [[0, 1, 10]] * 2
        assert result["differences"][0]["both"]["mean"] == pytest.approx(0.05)
    assert "sw algo.inner_lr=0.4 minus sw algo.inner_lr=0.1" in said(tmp_path, "sw")


def test_batch_norm_modes_are_named_and_can_be_made_the_same(tmp_path: Path) -> None:
    modes = {"inductive": hard_episodes(1, gain=-0.2)}
    write_run(tmp_path / "a", hard_episodes(1), batch_norm="transductive", modes=modes)
    write_run(tmp_path / "b", hard_episodes(2), batch_norm="inductive")
    assert "different batch-norm modes (a: transductive, b: inductive): batch_norm=MODE" in said(tmp_path, "a", "b")
    text = said(tmp_path, "a", "b", "batch_norm=inductive")
    assert "b is better than a by" in text
    assert "different batch-norm modes" not in text
    done = run(tmp_path, "compare", "a", "b", "batch_norm=running")
    assert (done.code, "a was not scored with batch norm running" in done.err) == (1, True)


def test_an_earlier_inner_step(tmp_path: Path) -> None:
    write_run(tmp_path / "a", hard_episodes(1))
    write_run(tmp_path / "b", hard_episodes(2, gain=0.1))
    result, _ = written(tmp_path, "a", "b", "step=0")
    assert result["differences"][0]["episodes"]["mean"] == pytest.approx(
        (hard_episodes(2, gain=0.1) - hard_episodes(1)).mean() / 2
    )
    done = run(tmp_path, "compare", "a", "b", "step=2")
    assert (done.code, "step=2: a was tested with 1 inner steps" in done.err) == (1, True)


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_errors_that_are_not_finite_leave_the_shares(odd: float, tmp_path: Path) -> None:
    wild = hard_episodes(2, gain=-0.1)
    wild[[3, 5]] = odd
    write_run(tmp_path / "a", hard_episodes(1), metric="mse")
    write_run(tmp_path / "b", wild, metric="mse", sha256="a" * 64)
    result, text = written(tmp_path, "a", "b")
    (difference,) = result["differences"]
    assert difference["episodes"] is None
    assert difference["worse_on"] == pytest.approx(0.01)
    assert difference["wilcoxon_p"] < 1e-20
    assert "is not finite, so that there is no difference of means" in text


def test_means_that_a_few_episodes_decide(tmp_path: Path) -> None:
    wild = hard_episodes(2, gain=-0.02)
    wild[::20] += 3
    write_run(tmp_path / "a", hard_episodes(1), metric="mse")
    write_run(tmp_path / "b", wild, metric="mse")
    text = said(tmp_path, "a", "b")
    assert "b is worse than a" in text
    assert "a few with large differences decide the mean" in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_sentence_follows_the_counts(tmp_path: Path, seeds: int) -> None:
    """With float32 differences Wilcoxon's p is 0.195, and the sentence would add that on most episodes it is not so."""
    for seed in range(seeds):
        for side, counts in (("a", [6, 19, 17, 19]), ("b", [3, 16, 15, 22])):
            write_run(tmp_path / side / f"seed={seed}", np.float32([counts * 8])[0] / 25, seed)
    result, text = written(tmp_path, "a", "b")
    (difference,) = result["differences"]
    assert difference["wilcoxon_p"] == pytest.approx(0.04819421059071111, rel=1e-9)
    assert (difference["better_on"], difference["worse_on"]) == (0.25, 0.75)
    assert "b is worse than a by" in text
    assert "on most episodes it is not so" not in text


def test_means_of_as_many_right_answers_are_not_a_difference(tmp_path: Path) -> None:
    """3 + 8 + 22 and 9 + 4 + 20: in float32 their means differ in the last bits."""
    for side, counts in (("a", [3, 8, 22]), ("b", [9, 4, 20])):
        for seed in range(3):
            values = np.float32([counts[seed:] + counts[:seed]] * 10).ravel() / 25
            write_run(tmp_path / side / f"seed={seed}", values, seed)
    assert "a and b have the same result on every episode" in said(tmp_path, "a", "b")


def test_the_first_episodes_of_more_are_proved_the_same(tmp_path: Path) -> None:
    """Real runs: 70 of 130 episodes, which end inside a block of 64; and other episodes, which are refused."""
    for name, episodes, more in (("a", 70, []), ("b", 130, ["seed=1"]), ("c", 70, ["task.shot=3"])):
        assert run(tmp_path, "train", *TINY, *more, f"test_episodes={episodes}", f"name={name}").code == 0
    result, _ = written(tmp_path, "outputs/a", "outputs/b")
    own = json.loads((tmp_path / "outputs/a/results.json").read_text())
    assert (result["episodes"], result["episodes_sha256"]) == (70, own["episodes_sha256"])
    assert result["sides"][0]["mean"] == pytest.approx(own["mean"])
    for other in ("outputs/a", "outputs/b"):
        refused = run(tmp_path, "compare", other, "outputs/c")
        assert (refused.code, refused.out) == (1, "")
        assert "were not tested on the same episodes (task.shot 10 and 3)" in refused.err
    # An evaluation is compared like the run that it stands in.
    assert run(tmp_path, "eval", "run=outputs/a", "task.shot=3").code == 0
    (folder,) = (tmp_path / "outputs/a/eval").iterdir()
    assert run(tmp_path, "compare", str(folder.relative_to(tmp_path)), "outputs/c").code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a"], "a is one configuration, and a comparison needs two"),
        (["a", "nowhere"], "nowhere is not there: give the folder of a run"),
        (["a", "no-run"], "no-run is not the folder of a run or of a sweep: there is no config.yaml in it"),
        (["a", "x*"], "no folder of a run is like x*"),
        (["a", "unfinished"], "unfinished has no results.json: finish it"),
        (["a", "mse"], "a was tested by accuracy and mse by mse"),
        (["a", "fewer"], "before each episode's hash was kept"),
        (["a", "other"], "were not tested on the same episodes (episodes_seed 0 and 1)"),
        (["a", "data"], "were not tested on the same episodes (their data differ)"),
        (["a", "broken"], "cannot be read"),
        (["a", "twice"], "twice/x and twice/y are one configuration with the same seed"),
        (["a", "b", "out=none/c.json"], "there is no folder"),
        (["a", "b", "ou=c.json"], "compare has no key ou: did you mean out?"),
        (["a", "b", "step=last"], "step=last must be the number of an inner step"),
        (["a", "b", "batch_norm=none"], "batch_norm=none must be one of inductive"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    for name, more in (
        *(("a", {}), ("b", {}), ("mse", {"metric": "mse"}), ("data", {"sha256": "b" * 64})),
        ("other", {"sha256": "b" * 64, "config": {"episodes_seed": 1}}),
        *(("unfinished", {}), ("broken", {}), ("twice/x", {}), ("twice/y", {})),
    ):
        write_run(tmp_path / name, hard_episodes(1), **more)  # type: ignore[arg-type]
    write_run(tmp_path / "fewer", hard_episodes(1)[:100], sha256="b" * 64)
    (tmp_path / "unfinished/results.json").unlink()
    (tmp_path / "broken/episodes.npz").write_bytes(b"no zip")
    (tmp_path / "no-run").mkdir()
    done = run(tmp_path, "compare", *arguments)
    assert (done.code, done.out) == (1, "")
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1


def test_an_unknown_option(tmp_path: Path) -> None:
    assert run(tmp_path, "compare", "--all", "a").code == 2


def test_folders_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "outputs/a", hard_episodes(1))
    write_run(tmp_path / "outputs/sw/algo.inner_lr=0.1,seed=0", hard_episodes(1))
    monkeypatch.chdir(tmp_path)
    for command in ("compare", "report"):
        assert completions([command, "outputs/"]) == ["outputs/a ", "outputs/sw/"]
        assert completions([command, "outputs/sw/algo.inner_lr=0"]) == ["outputs/sw/algo.inner_lr=0.1,seed=0 "]
