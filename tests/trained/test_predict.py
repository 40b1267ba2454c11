"""metalearn predict on pictures, as a user gives it."""

import dataclasses
import json
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Finished, is_running, run, start, wait
from folders import rewrite
from PIL import Image
from tiny_runs import CLASSIFIERS, rows, train, write_list

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.commands.completion import completions
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.datasets.pictures import Preparation, Resize
from metalearn_cli.learning.draws import draw_block
from metalearn_cli.learning.learner import Learner
from metalearn_cli.run_folder.proof import load_tested
from metalearn_cli.run_folder.records import read_json
from metalearn_cli.system.files import turn
from metalearn_cli.tasks.base import Batch, draw_slice
from metalearn_cli.tasks.cub import CUB, Region
from metalearn_cli.tasks.omniglot import CharacterResample, Omniglot
from metalearn_cli.trained import file_inputs
from metalearn_cli.trained.novelty import SHARE_BEFORE, Threshold, nearest_threshold
from metalearn_cli.training.eval_job import load_eval_job


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def maml(home: Path, photos: Path) -> Path:
    return train(home, "maml", photos, name="maml")


@pytest.fixture(scope="module")
def protonet(home: Path, photos: Path) -> Path:
    return train(home, "protonet", photos, name="protonet")


def task(folder: Path, photos: Path, shots: dict[str, int]) -> tuple[Path, Path]:
    """A support folder with so many pictures of these classes, and a query folder with one of each, and of another."""
    support, query = folder / "support", folder / "query"
    query.mkdir(parents=True)
    for number, (name, shot) in enumerate(shots.items()):
        (support / name).mkdir(parents=True)
        for place in range(shot):
            shutil.copy(photos / f"class{number:02}" / f"{place}.png", support / name)
        shutil.copy(photos / f"class{number:02}" / "7.png", query / f"{name}.png")
    shutil.copy(photos / "class19" / "7.png", query / "stranger.png")
    return support, query


def predicted(folder: Path, model: Path, support: object, query: object, *more: str) -> Finished:
    done = run(folder, "predict", f"run={model}", f"support={support}", f"query={query}", "threads=1", *more)
    assert done.code == 0, done.err
    return done


def without_thresholds(model: Path, folder: Path) -> Path:
    """A copy of a run whose flag was never measured."""
    copied = Path(shutil.copytree(model, folder / "outputs/other"))
    (copied / "unlike.json").unlink(missing_ok=True)
    return copied


def thresholds(model: Path) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = read_json(model / "unlike.json")["thresholds"]
    return result


HEADS = ("imaml", "maml", "maml_plus_plus", "meta_curvature", "meta_lstm", "meta_sgd", "reptile")
SAME, OTHER = {"ant": 2, "bee": 2, "cat": 2}, {"ant": 2, "bee": 2, "cat": 2, "dog": 2}
UNEQUAL = {"ant": 1, "bee": 4, "cat": 2}


@pytest.mark.parametrize("algo", CLASSIFIERS)
def test_every_algorithm_predicts_for_any_way_and_any_shots(algo: str, tmp_path: Path, photos: Path) -> None:
    model = train(tmp_path, algo, photos)
    for number, shots in enumerate((SAME, OTHER, UNEQUAL)):
        support, query = task(tmp_path / str(number), photos, shots)
        more = [f"unlabelled={query}"] * (algo == "soft_kmeans")
        done = predicted(tmp_path, model, support, query, f"out={tmp_path}/{number}.csv", *more)
        assert done.out == f"{len(shots) + 1} predictions are in {tmp_path}/{number}.csv\n"
        result = rows(tmp_path / f"{number}.csv")
        assert [row["path"] for row in result] == [str(query / f"{name}.png") for name in [*shots, "stranger"]]
        assert list(result[0]) == ["path", "label", *(f"p_{name}" for name in shots), "unlike"]
        for row in result:
            probabilities = {name: float(row[f"p_{name}"]) for name in shots}
            assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
            assert probabilities[row["label"]] == max(probabilities.values())
            assert row["unlike"] in ("true", "false")
        said = "trained with 3 classes and not" in done.err
        assert said == (len(shots) != 3 and algo in HEADS), done.err
        assert (
            "each picture is prepared as in training: the largest square in its middle is cut out, turned into RGB and "
            "scaled to 16 x 16 pixels (lanczos)\n" in done.err
        )


def test_data_that_have_changed_calibrate_nothing(tmp_path: Path, photos: Path, protonet: Path) -> None:
    """Their classes may stand in other splits, so that those of the training would be among them."""
    model = without_thresholds(protonet, tmp_path)
    made = json.loads((model / "environment.json").read_text())
    rewrite(model / "environment.json", {**made, "data": "0" * 64})
    support, query = task(tmp_path, photos, SAME)
    assert "have changed" in predicted(tmp_path, model, support, query, f"out={tmp_path}/found.csv").err
    assert "unlike" not in rows(tmp_path / "found.csv")[0]
    assert not (model / "unlike.json").exists()


def episode(model: Path, number: int) -> tuple[Learner, Batch, dict[str, list[Path]]]:
    """A test episode of a run, its learner, and the files of the episode."""
    _, job = load_eval_job([f"run={model}"])
    learner = new_learner(job)
    learner.load_state_dict(load_tested(model)[0].tensors)
    drawn = draw_slice(draw_block(job.task, "test", 0, 0), number, number + 1)
    folder = Path(job.task.root)  # type: ignore[attr-defined]
    files = [path for name in job.task._names for path in sorted((folder / name).iterdir())]  # type: ignore[attr-defined]
    return (
        learner,
        job.task.gather(drawn, torch.device("cpu")),
        {part: [files[place] for place in drawn[f"{part}_image"][0].tolist()] for part in ("support", "query")},
    )


@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_a_test_episode_from_files_is_predicted_as_the_test_does(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(name)
    learner, batch, files = episode(model, 3)
    outputs = learner.adapt(batch.support)(batch.query_x, BatchNorm.inductive)[0]
    write_list(tmp_path / "support.csv", files["support"], batch.support_y[0].tolist())
    query = ",".join(map(str, files["query"]))
    predicted(tmp_path, model, tmp_path / "support.csv", query, f"out={tmp_path}/found.json")
    result = json.loads((tmp_path / "found.json").read_text())
    assert [row["path"] for row in result] == list(map(str, files["query"]))
    probabilities = torch.tensor([[row["probabilities"][str(label)] for label in range(3)] for row in result])
    (temperature,) = (known["temperature"] for known in thresholds(model) if (known["way"], known["shot"]) == (3, 2))
    torch.testing.assert_close(probabilities, (outputs / temperature).softmax(-1), rtol=1e-4, atol=1e-5)
    assert [int(row["label"]) for row in result] == outputs.argmax(-1).tolist()
    accuracy = learner.evaluate(batch, [BatchNorm.inductive])[BatchNorm.inductive].metric[0, -1]
    share = sum(int(row["label"]) == y for row, y in zip(result, batch.query_y[0].tolist(), strict=True)) / len(result)
    assert share == pytest.approx(accuracy.item())


def test_a_prediction_does_not_depend_on_its_neighbours_unless_asked(tmp_path: Path, photos: Path, maml: Path) -> None:
    support, query = task(tmp_path, photos, SAME)
    others = ",".join(str(photos / f"class{number:02}" / "5.png") for number in range(20))
    chances = {}
    for mode in ("inductive", "transductive"):
        for number, files in enumerate((f"{query}/ant.png", f"{query}/ant.png,{others}")):
            out = tmp_path / f"{number}.csv"
            done = predicted(tmp_path, maml, support, files, f"out={out}", f"batch_norm={mode}")
            assert ("depends on its neighbours" in done.err) == (mode == "transductive")
            assert len(rows(out)) == (1, 21)[number]
            chances[mode, number] = [float(rows(out)[0][f"p_{name}"]) for name in SAME]
    assert chances["inductive", 0] == pytest.approx(chances["inductive", 1], abs=1e-6)
    assert chances["transductive", 0] != pytest.approx(chances["transductive", 1], abs=1e-4)


def test_pictures_may_have_any_mode_and_size(tmp_path: Path, photos: Path, protonet: Path) -> None:
    support, _ = task(tmp_path, photos, SAME)
    large = Image.open(photos / "class00" / "7.png").resize((240, 200), Image.Resampling.NEAREST)
    folder = tmp_path / "modes"
    folder.mkdir()
    large.save(folder / "rgb.png")
    large.convert("RGBA").save(folder / "rgba.png")
    large.convert("CMYK").save(folder / "cmyk.tif")
    large.quantize(256).save(folder / "palette.png")
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    large.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=95)
    large.convert("L").save(folder / "grey.png")
    Image.new("I;16", (30, 300), 30000).save(folder / "sixteen.png")
    predicted(tmp_path, protonet, support, folder, f"out={tmp_path}/found.csv")
    result = {Path(row["path"]).name: float(row["p_ant"]) for row in rows(tmp_path / "found.csv")}
    assert len(result) == 7
    for name in ("rgba.png", "cmyk.tif", "palette.png", "turned.jpg"):
        assert result[name] == pytest.approx(result["rgb.png"], abs=0.05)


def test_a_table_on_the_screen_and_all_else_on_stderr(tmp_path: Path, photos: Path, protonet: Path) -> None:
    support, query = task(tmp_path, photos, SAME)
    (query / "notes.txt").write_text("x")
    done = predicted(tmp_path, protonet, support, query)
    first, *rest = done.out.splitlines()
    assert first.split() == ["path", "label", "p_ant", "p_bee", "p_cat", "unlike"]
    assert [line.split()[0] for line in rest] == [f"{query}/{name}.png" for name in [*SAME, "stranger"]]
    assert "no images by their suffix, and not read (1): notes.txt" in done.err
    write_list(tmp_path / "query.csv", [query / "ant.png"], ["bee"])
    assert "query.csv: label" in predicted(tmp_path, protonet, support, tmp_path / "query.csv").err


def test_a_pattern_is_what_it_matches(
    tmp_path: Path, photos: Path, protonet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sorted, each file once, with the files in folders; a file that is called so is itself."""
    _, query = task(tmp_path, photos, SAME)
    (query / "more").mkdir()
    (query / "notes.txt").write_text("x")
    shutil.copy(query / "ant.png", query / "more/one.png")
    shutil.copy(query / "ant.png", query / "more/a*[1].png")
    monkeypatch.chdir(tmp_path)
    names = ["query/ant.png", "query/bee.png", "query/cat.png", "query/stranger.png"]
    inside = ["query/more/a*[1].png", "query/more/one.png"]
    said = "in {} no images by their suffix, and not read (1): notes.txt"
    for pattern, wanted, notes in (
        ("query/*.png", names, []),
        ("query/[a-c]*.png, query/str?nger.png", names, []),
        ("query/bee.png,query/b*", ["query/bee.png", "query/bee.png"], []),
        ("query/*", [*names[:3], *inside, names[3]], [said.format("query/*")]),
        ("query/**/*", [*names[:3], *inside, names[3]], [said.format("query/**/*")]),
        ("query/**/*.png", [*names[:3], *inside, names[3]], []),
        ("quer?", [*names, *inside], [said.format("query")]),
        ("query/more/a*[1].png", inside[:1], []),
    ):
        paths, result = file_inputs.images(pattern)
        assert (list(map(str, paths)), result) == (wanted, notes), pattern
    (tmp_path / "list1.csv").write_text("path\nquery/ant.png\n")
    assert file_inputs.images("list?.csv") == ([Path("query/ant.png")], [])
    predicted(tmp_path, protonet, tmp_path / "support", "query/*.png", "out=found.csv")
    assert [row["path"] for row in rows(tmp_path / "found.csv")] == names


def test_names_of_any_kind_come_back(tmp_path: Path, photos: Path, protonet: Path) -> None:
    support, query = task(tmp_path, photos, {"a,b": 1, 'q"': 1, "é=[1]": 1})
    (query / "ant, (1)=[é].png").write_bytes((photos / "class00/6.png").read_bytes())
    predicted(tmp_path, protonet, support, query / "ant, (1)=[é].png", f"out={tmp_path}/a=(1).csv")
    (row,) = rows(tmp_path / "a=(1).csv")
    assert list(row) == ["path", "label", "p_a,b", 'p_q"', "p_é=[1]", "unlike"]
    assert row["path"] == f"{query}/ant, (1)=[é].png"


# The flag.


def test_the_threshold_is_measured_once_and_kept_with_what_it_was_measured_on(
    tmp_path: Path, photos: Path, protonet: Path
) -> None:
    model = without_thresholds(protonet, tmp_path)
    support, query = task(tmp_path, photos, SAME)
    (model / "unlike.json.tmp-1").touch()  # of a process that was killed
    first = predicted(tmp_path, model, support, query).err
    assert not list(model.glob("*.tmp-*"))
    assert "by 24 queries of 3-way 2-shot validation tasks of 5 classes, of which 0.0% are flagged" in first
    assert "more validation classes would make it less" in first
    (known,) = thresholds(model)
    assert (known["way"], known["shot"], known["batch_norm"], known["episodes"]) == (3, 2, "inductive", 4)
    known["value"] = -1e9  # what is kept is used
    (model / "unlike.json").write_text(json.dumps({"thresholds": [known]}))
    again = predicted(tmp_path, model, support, query)
    assert [line.split()[-1] for line in again.out.splitlines()[1:]] == ["true"] * 4
    predicted(tmp_path, model, support, query, "batch_norm=running")
    assert len(thresholds(model)) == 2


def test_two_processes_that_calibrate_a_run_keep_both_figures(tmp_path: Path, photos: Path, protonet: Path) -> None:
    """Both have read the run before either writes."""
    model = without_thresholds(protonet, tmp_path)
    pids = []
    held = tmp_path / "held"

    def first() -> None:
        while not held.exists():  # what is locked before a fork would be locked in the fork too
            time.sleep(0.01)

    for shot in (1, 2):
        support, query = task(tmp_path / str(shot), photos, dict.fromkeys(SAME, shot))
        words = ("predict", f"run={model}", f"support={support}", f"query={query}", "threads=1")
        pids.append(start(tmp_path / str(shot), *words, first=first))
    with turn(model, ""):
        held.touch()
        for shot, pid in zip((1, 2), pids, strict=True):
            said = tmp_path / str(shot) / "err"
            while is_running(pid) and not (said.exists() and "waiting for another process" in said.read_text()):
                time.sleep(0.05)
            assert is_running(pid), "it did not wait for its turn"
        assert not (model / "unlike.json").exists()
    for shot, pid in zip((1, 2), pids, strict=True):
        done = wait(tmp_path / str(shot), pid)
        assert done.code == 0, done.err
    assert sorted((known["way"], known["shot"]) for known in thresholds(model)) == [(3, 1), (3, 2)]


def test_where_tasks_like_the_users_cannot_be_had_the_next_best_are_taken(
    tmp_path: Path, photos: Path, protonet: Path, maml: Path
) -> None:
    """There are five validation classes of eight pictures."""
    support, query = task(tmp_path / "shots", photos, dict.fromkeys(SAME, 7))
    done = predicted(tmp_path, maml, support, query)
    said = "of 3-way 1-shot validation tasks of 5 classes, of which 0.0% are flagged, as nothing is known of 3-way 7-sh"
    assert said in done.err
    support, query = task(tmp_path / "ways", photos, dict.fromkeys("abcdef", 2))
    assert "no flag `unlike`" in predicted(tmp_path, maml, support, query).err
    done = predicted(tmp_path, protonet, support, query)
    assert "of 3-way 2-shot validation tasks" in done.err, done.err


def test_an_earlier_versions_threshold_is_measured_again_or_said_to_flag_more(tmp_path: Path, photos: Path) -> None:
    """The first flagged 5%, and did not write that down; none promised anything of new classes."""
    images = Path(shutil.copytree(photos, tmp_path / "images"))
    model = train(tmp_path, "protonet", images)
    support, query = task(tmp_path, photos, SAME)
    predicted(tmp_path, model, support, query)
    (measured,) = thresholds(model)
    old = {key: value for key, value in measured.items() if key not in ("share", "classes", "promised", "temperature")}
    before = json.dumps({"thresholds": [old | {"value": -1e9}]})
    (model / "unlike.json").write_text(before)
    assert "of 5 classes, of which 0.0% are flagged" in predicted(tmp_path, model, support, query).err
    assert thresholds(model) == [measured]
    uncalibrated = measured | {"temperature": None}  # of the version after that
    (model / "unlike.json").write_text(json.dumps({"thresholds": [uncalibrated]}))
    assert "probabilities have the temperature" in predicted(tmp_path, model, support, query).err
    assert thresholds(model) == [measured]
    (model / "unlike.json").write_text(before)
    assert run(tmp_path, "export", f"run={model}", "out=new", "threads=1").code == 0
    exported = json.loads((tmp_path / "new/model.json").read_text())["unlike"]
    assert None not in {known["promised"] for known in exported}
    images.rename(tmp_path / "elsewhere")
    used = predicted(tmp_path, model, support, query)
    assert "of which 5.0% are flagged; measured by an earlier version, which promised more than it kept" in used.err
    assert [line.split()[-1] for line in used.out.splitlines()[1:]] == ["true"] * 4
    assert (model / "unlike.json").read_text() == before
    (model / "unlike.json").unlink()  # then there is nothing to flag by
    done = predicted(tmp_path, model, support, query)
    assert done.out.split("\n")[0].split() == ["path", "label", "p_ant", "p_bee", "p_cat"]
    assert "no flag `unlike`: its threshold is measured on validation tasks (task.root=" in done.err


def threshold(value: float, way: int, shot: int, promised: float | None = 0.05) -> Threshold:
    return Threshold(value, way, shot, "inductive", 1, 1, 100, 100, "", SHARE_BEFORE, 10, promised)


def test_the_threshold_that_is_found_flags_less_rather_than_more() -> None:
    known = [threshold(1, 5, 1), threshold(2, 5, 5), threshold(3, 10, 5), threshold(4, 2, 1)]
    assert nearest_threshold(known, 5, 5, False) == known[1]
    assert nearest_threshold(known, 5, 4, False) == known[0]
    assert nearest_threshold(known, 5, 9, False) == known[1]
    assert nearest_threshold(known, 7, 5, False) is None
    assert nearest_threshold(known, 8, 5, True) == known[2]
    assert nearest_threshold(known, 3, 2, True) == known[3]
    assert nearest_threshold([], 5, 5, True) is None
    both = [threshold(1, 5, 1, None), threshold(2, 5, 1)]
    assert nearest_threshold(both, 5, 1, False) == nearest_threshold(both[::-1], 5, 1, False) == both[1]


# What may be wrong.


def test_nothing_is_written_and_one_sentence_said_where_files_are_broken(
    tmp_path: Path, photos: Path, protonet: Path
) -> None:
    support, query = task(tmp_path, photos, SAME)
    (query / "ant.png").write_bytes(b"")
    whole = (query / "bee.png").read_bytes()
    (query / "bee.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "out.csv").write_text("before")
    words = (f"run={protonet}", f"support={support}", f"query={query}", f"out={tmp_path}/out.csv")
    done = run(tmp_path, "predict", *words, "threads=1")
    assert (done.code, done.out) == (1, "")
    assert f"2 of 4 pictures cannot be used: {query}/ant.png is empty (0 bytes); {query}/bee.png cannot be" in done.err
    assert done.err.count("\n") == 1
    assert (tmp_path / "out.csv").read_text() == "before"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("run={run} support={s}", "predict needs query=DIR"),
        ("run={run} query={q}", "predict needs support=DIR"),
        ("run={run} support={s} query={q} steps=3", "predict has no key steps: choose from algo.test_steps"),
        ("run={run} support={s} quary={q} query={q}", "did you mean query?"),
        ("run={run} support={s} query={q} query={q}", "query= is given twice"),
        ("run={run} support={s} query={q} batch_norm=train", "batch_norm=train must be one of transductive, inductive"),
        ("run={run} support={s} query={q} threads=0", "threads=0 must be a whole number from 1 to 1024"),
        ("run={run} support={s} query={q} device=cuda:7", "device=cuda:7, but torch sees"),
        ("run={run} support={s} query={q} precision=tf32 device=cpu", "precision=tf32 is for NVIDIA GPUs"),
        ("run={run} support={s} query={q} algo.test_steps=3", "takes no inner steps"),
        ("run={run} support={s} query={q} algo.test_steps=x", "must be a whole number"),
        ("run={run} support={s} query={q} out=x.txt", "must be a file whose name ends in .csv or .json"),
        ("run={run} support={s} query={q} out=nowhere/x.csv", "there is no folder nowhere"),
        ("run=nowhere support={s} query={q}", "run=nowhere is not the folder of a run"),
        ("run={run} support={here}/hollow query={q}", "hollow: the folder none is empty: put a picture of that class"),
        ("run={run} support={here}/contra.csv query={q}", "the labels a and b: give it one"),
        ("run={run} support=nowhere query={q}", "support=nowhere is neither a folder nor a CSV file"),
        ("run={run} support={q} query={q}", "holds images itself"),
        ("run={run} support={s}/ant query={q}", "holds images itself"),
        ("run={run} support={s}/ant/0.png query={q}", "must be a table, a file whose name ends in .csv"),
        ("run={run} support={s} query=nowhere", "there is no file or folder nowhere"),
        ("run={run} support={s} query=", "query= is empty"),
        ("run={run} support={s} query={q}/*.jpg", "query={q}/*.jpg: no file matches this pattern in {here}: mend it"),
        ("run={run} support={s} query={q}/ant.png,b[1].png", "query=b[1].png: no file matches this pattern"),
        ("run={run} support={s} query={here}/n*", "query={here}/n* matches no images, files that end in .jpg"),
        ("run={run} support={s} query={here}/empty", "holds no images, files that end in .jpg"),
        ("run={run} support={here}/empty query={q}", "holds no images in folders"),
        ("run={run} support={here}/one query={q}", "the support has one class only, ant"),
        ("run={run} support={here}/nolabel.csv query={q}", "nolabel.csv has no column label"),
        ("run={run} support={here}/lost.csv query={q}", "1 of 1 files are not there: {here}/lost.csv line 2 names"),
        ("run={run} support={here}/blank.csv query={q}", "blank.csv line 2 has nothing in column label"),
        ("run={run} support={s} query={here}/nolabel.csv,{here}/blank.csv out={here}", "must be a file whose name"),
        ("run={run} support={s} query={here}/note.csv", "is not CSV"),
    ],
)
def test_every_mistake_has_its_sentence(
    arguments: str, sentence: str, tmp_path: Path, photos: Path, protonet: Path
) -> None:
    support, query = task(tmp_path, photos, SAME)
    (tmp_path / "empty").mkdir()
    shutil.copytree(support / "ant", tmp_path / "one/ant")
    shutil.copytree(support, tmp_path / "hollow")
    (tmp_path / "hollow/none").mkdir()
    (tmp_path / "contra.csv").write_text(f"path,label\n{query}/ant.png,a\n{query}/ant.png,b\n")
    (tmp_path / "nolabel.csv").write_text("path,kind\nquery/ant.png,b\n")
    (tmp_path / "lost.csv").write_text("path,label\nlost.png,b\n")
    (tmp_path / "blank.csv").write_text("path,label\nquery/ant.png,\n")
    (tmp_path / "note.csv").write_text('path\n"a"b\n')
    names = {"run": protonet, "s": support, "q": query, "here": tmp_path}
    done = run(tmp_path, "predict", *(word.format(**names) for word in arguments.split()))
    assert (done.code, done.out) == (1, ""), done.err
    assert sentence.format(**names) in done.err
    assert done.err.count("\n") == 1, done.err


# What the images of data sets go through.


def pixels(image: Image.Image) -> torch.Tensor:
    """The bytes of a picture in their order."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)


def test_a_character_in_a_file_is_what_the_data_set_makes_of_it(tmp_path: Path) -> None:
    strokes = torch.rand(105, 105, generator=torch.Generator().manual_seed(0)).lt(0.5)
    picture = Image.frombytes("L", (105, 105), bytes((strokes * 255).flatten().tolist())).convert("1")
    picture.save(tmp_path / "a.png")
    for resample in (CharacterResample.nearest, CharacterResample.lanczos):
        preparation = Omniglot(resample=resample).preparation
        small = picture.convert("L").resize((28, 28), Image.Resampling[resample.name.upper()])
        assert torch.equal(preparation.read(tmp_path / "a.png"), 255 - pixels(small).view(1, 28, 28))
    noise = Image.effect_noise((210, 210), 90)  # a larger picture is first as large as the scans
    noise.save(tmp_path / "a.png")
    scan = noise.resize((105, 105), Image.Resampling.LANCZOS).resize((28, 28), Image.Resampling.NEAREST)
    preparation = dataclasses.replace(Omniglot().preparation, ink=Ink.as_is)  # noise is no ink
    assert torch.equal(preparation.read(tmp_path / "a.png"), 255 - pixels(scan).view(1, 28, 28))


def test_a_preparation_is_said_in_a_sentence() -> None:
    prepared = "each picture is prepared as in training: "
    assert str(Omniglot(resample=CharacterResample.lanczos).preparation) == (
        f"{prepared}the largest square in its middle is cut out, turned grey, scaled to 105 x 105 pixels and then to "
        "28 x 28 pixels (lanczos), evened out, so that paper in any light is white and faint ink black (ink=as_is "
        "leaves them) and inverted, so that dark ink is bright"
    )
    assert str(CUB(region=Region.box).preparation) == (
        f"{prepared}it is stretched to a square, turned into RGB and scaled to 84 x 84 pixels (bilinear); the birds of "
        "training were cut out by their boxes: cut yours out"
    )
    assert str(Preparation(20, 1, Resize.pad, margin=6)) == (
        f"{prepared}it is padded with white to a square, turned grey, scaled to 32 x 32 pixels (lanczos) and cut to "
        "the inner 20 x 20"
    )


def test_a_real_character_too(tmp_path: Path, omniglot_root: str) -> None:
    character = "images_evaluation/Tibetan/character05"
    task = Omniglot(root=omniglot_root)
    with zipfile.ZipFile(f"{omniglot_root}/images_evaluation.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(f"{character}/") and name[-4:] == ".png")
        (tmp_path / "a.png").write_bytes(archive.read(names[3]))
    place = int(task.images.start[task.images.names.index(character)]) + 3
    assert torch.equal(task.preparation.read(tmp_path / "a.png"), task.images.pixels[place])


@pytest.mark.parametrize("margin", [0, 6])
def test_a_margin_is_cut_off_after_the_size_is_changed(margin: int, tmp_path: Path) -> None:
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    picture.save(tmp_path / "a.png")
    result = Preparation(20, 3, Resize.stretch, "bilinear", margin=margin).read(tmp_path / "a.png")
    large = picture.resize((20 + 2 * margin,) * 2, Image.Resampling.BILINEAR)
    assert torch.equal(
        result.permute(1, 2, 0).flatten(), pixels(large.crop((margin, margin, margin + 20, margin + 20)))
    )


def test_help_and_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, "predict", "-m").code == 2  # an unknown option
    assert "metalearn predict [run=FOLDER]" in run(tmp_path, "predict", "--help").out
    assert "metalearn export run=FOLDER" in run(tmp_path, "export", "--help").out
    assert completions(["pre"]) == ["predict "]
    assert completions(["predict", "batch_norm=i"]) == ["batch_norm=inductive "]
    assert completions(["predict", "run=x", "su"]) == ["support="]
    assert completions(["export", "o"]) == ["out="]
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.json").touch()
    monkeypatch.chdir(tmp_path)
    assert completions(["predict", "run=mo"]) == ["run=model "]
