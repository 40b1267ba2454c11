"""Each mistake: one sentence with what would be right, exit 1, no traceback, nothing created. And rows C6 and C9 of the
fault matrix: data that are not there, and data that are all alike."""

from pathlib import Path
from typing import Any

import pytest
from commands import refuse, results, run, succeed
from PIL import Image

from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.known_sets import about_sets

# By row of the fault matrix: what is given, and what the sentence must hold.
MISTAKES = {
    "C1": {
        "algo.inner_lrr=0.1": "did you mean algo.inner_lr?",
        "sede=1": "did you mean seed?",
        "+foo=1": "foo is not a key",
        "+algo.inner_lrr=1": "did you mean algo.inner_lr?",
        "+algo.inner_lr=1": "without the +",
        "~algo": "cannot be deleted",
        "seed": "is not of the form key=value",
        "experiment=maml/sinusoid sede=1": "did you mean seed?",
        "debug=quick algo.inner_lrr=1": "did you mean algo.inner_lr?",
        "+experiment=maml/sinusoid": "without the +",
        "=1": "is not of the form key=value",
        "hydra.run.dir=here": "hydra.run.dir=here would do nothing",
        "+hydra.launcher.n_jobs=2": "would do nothing",
        "-m seed=0,1 hydra.sweep.dir=here": "hydra.sweep.dir=here would do nothing",
    },
    "C2": {
        "algo.inner_lr=???": "algo.inner_lr has no value",
        "paper={mean:1.0}": "must be a mapping with a number as its mean and a source",
        "paper={mean:much,source:mine}": "must be a mapping with a number as its mean and a source",
        "seed=abc": "seed=abc must be a whole number",
        "seed=-1": "seed=-1 must be a whole number, 0 or above",
        "steps=1.5": "steps=1.5 must be a whole number",
        "steps=-1": "steps=-1 must be a whole number, 0 or above",
        "algo.first_order=maybe": "must be true or false",
        "algo.inner_lr=nan": "algo.inner_lr=nan must be a finite number",
        "algo.inner_lr=1e999": "algo.inner_lr=inf must be a finite number",
        "algo.inner_lr=-1": "0 or above",
        "algo.inner_loss=sum": "one of mean, way_times_mean",
        "batch_norm=train": "one of transductive, inductive, running, one_query, or null",
        "model=conv4": "model=mlp",
        "model.hidden=[]": "model.hidden=[] must be a list of the widths of one layer or more, each 1 or above",
        "model.hidden=8": "model.hidden=8 must be",
        "model.hidden=[[1]]": "model.hidden=[[1]] must be a list of the widths",
        "model.hidden=[{a:1}]": "model.hidden=[{'a': 1}] must be a list",
        "threads=1000000000000000000000000000000": "must be a whole number from 1 to 1024, or null",
        "seed=${nothing}": "nothing",
        "expect=accuracy>=0.9": "must compare the test's mse",
        "expect=mse>=0": "is always met: mse is 0 or above",
        "expect=mse<0": "is never met: mse is 0 or above",
        "expect=mse": "must compare the test's mse",
        "expect=mse_step99<=1": "the test takes 10",
        "algo=learned_optimizer algo.horizon=90": "must be a multiple of algo.unroll=20, e.g. 100",
        "algo=learned_optimizer algo.preprocess=log": "one of none, log_sign",
        "algo=hand_optimizer algo.rates=[]": "algo.rates=[] must be a list of finite numbers above 0",
        "algo=hand_optimizer algo.method=adagrad": "one of sgd, rmsprop, adam, nesterov",
        "task=quadratics task.dimension=0": "task.dimension=0 must be a whole number, 1 or above",
        "task.noise=-1": "task.noise=-1.0 must be a finite number, 0 or above",
        "task=steps task.jumps=0": "task.jumps=0 must be a whole number, 1 or above",
        "task=table": "task.root has no value: give task.root=...",
        "task=table task.root=nowhere.csv": "task.root=nowhere.csv cannot be read (No such file or directory)",
        "task=table task.root=a.csv task.target={a:1}": "must be the name of a column, or a list of them",
        "task=table task.root=a.csv task.features=x": "task.features=x must be a list, e.g. [train,val], or null",
        "optimizer.schedule=step": "optimizer.decay_every",
        "seed=0,1": "seed",
    },
    "C3": {
        "task=null": "task=null is none of the choices",
        "task=[sinusoid,omniglot]": "is none of the choices",
        "algo=../algo/maml": "is none of the choices",
        "algo=mamll": "did you mean maml?",
        "task=omniglott": "did you mean omniglot?",
        "model=conv": "did you mean conv4?",
        "experiment=maml/sinus": "did you mean maml/sinusoid?",
        "optimizer=adan": "did you mean adam?",
        "hydra/launcher=basic": "for a sweep (-m)",
        "-m seed=0,1 hydra/launcher=basik": "Could not find 'hydra/launcher/basik'",
    },
    "C4": {
        "tasks_per_step=0": "tasks_per_step=0 must be a whole number, 1 or above",
        "task.shot=0": "task.shot=0 must be a whole number, 1 or above",
    },
    "C11": {
        "algo._target_=os.system": "must be a frozen dataclass that implements",
        "algo._target_=nowhere.Nothing": "cannot be imported",
        "algo._target_=metalearn_cli.algorithms.maml.MALM": "did you mean metalearn_cli.algorithms.maml.MAML?",
        "algo._target_=MAML": "give package.module.Class",
        "algo._target_=metalearn_cli.optimizer.Optimizer": "must be a frozen dataclass that implements",
    },
    "C12": {
        "device=cdua": "must be auto, cpu, cuda or cuda:N",
        "device=cuda:7": "torch sees",
        "device=mps": "must be auto, cpu, cuda or cuda:N",
        "precision=fp16": "one of fp32, fp64, tf32, bf16",
        "precision=tf32 device=cpu": "is for NVIDIA GPUs, and this device is the cpu: take precision=fp32",
    },
    "C14": {
        "name=a\nb": "must be the name of a folder inside outputs/",
        "name=../up": "inside outputs/",
        "name=/abs": "inside outputs/",
        "name=${x}": "cannot hold ${",
        "name=.": "inside outputs/",
        "name= ": "inside outputs/",
    },
}

OMNIGLOT = {
    "C1": {
        "tsk=omniglot": "there is no key tsk: did you mean task?",
        "task.foo=1": "there is no key task.foo: did you mean task.root?",
    },
    "C2": {
        "expect=accuracy>=62": "from 0 to 1, where the screen shows percent: did you mean accuracy>=0.62?",
        "expect=accuracy<=1": "is always met: accuracy is from 0 to 1",
        "expect=accuracy_step1>1": "is never met",
        "other_batch_norm=[foo]": "must be a list of some of transductive, inductive, running, one_query",
        "paper=3": "must be a mapping with a number as its mean and a source, e.g. {mean:0.9,source:mine}, or null",
        "optimizer.momentum=1.5 optimizer=sgd": "optimizer.momentum=1.5 must be a share, 0 or above and below 1",
        "optimizer.decay_every=5": "optimizer.decay_every=5 belongs to optimizer.schedule=step",
    },
    "C4": {
        "task.way=1": "task.way=1 must be a whole number, 2 or above",
        "task.way=1700": "task.way=1700 is more than the 1692 classes (by rotations=as_classes) of the test split",
        "task.shot=15": "task.shot=15 and task.query=15 together are more than the 20 images",
        "task.query=0": "task.query=0 must be a whole number, 1 or above",
        "task.train_way=20": "task.train_way=20 must equal task.way=5",
        "task.train_splits=[train,val]": "by which select=best would choose: set select=last",
        "task.train_splits=[train,test]": "holds test, which is not a split to train on here",
        "task.train_splits=[train,vall]": "task.train_splits=[train,vall] holds vall",
        "task.train_splits=train": "task.train_splits=train must be a list",
        "task.split=random1200": "by which select=best would choose: set select=last",
        "task.split=random1200 select=last eval_every=5": "eval_every=5 asks for validations",
        "task.way=700": "task.way=700 is more than the 688 classes (by rotations=as_classes) of the val split",
    },
    "C6": {
        "task.root=/nowhere": "Omniglot is not in /nowhere",
        "task.root=/no where (é)[1]=x,y": "Omniglot is not in /no where (é)[1]=x,y",
    },
}


def by_row(mistakes: dict[str, dict[str, str]]) -> list[Any]:
    return [
        pytest.param(mistake, sentence, marks=pytest.mark.row(row), id=mistake)
        for row, sentences in mistakes.items()
        for mistake, sentence in sentences.items()
    ]


@pytest.mark.parametrize(("mistake", "sentence"), by_row(MISTAKES))
def test_a_mistake_gets_its_sentence(tmp_path: Path, mistake: str, sentence: str) -> None:
    refused = run(tmp_path, "train", *([mistake] if mistake.startswith("name") else mistake.split(" ")))
    check(tmp_path, refused.code, refused.out, refused.err, sentence)


@pytest.mark.parametrize(("mistake", "sentence"), by_row(OMNIGLOT))
def test_an_impossible_task_gets_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str, sentence: str
) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    words = [mistake] if mistake.startswith("task.root") else mistake.split(" ")
    refused = run(tmp_path, "train", "task=omniglot", *words)
    check(tmp_path, refused.code, refused.out, refused.err, sentence)


@pytest.mark.parametrize("task", ["cifar_fs", "mini_imagenet"])
@pytest.mark.row("C6")
def test_missing_images_make_no_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "nothing"))
    refused = run(tmp_path, "train", f"task={task}")
    check(tmp_path, refused.code, refused.out, refused.err, f"{tmp_path}/nothing/{task.replace('_', '-')}")


@pytest.mark.row("C6")
@pytest.mark.parametrize("kind", ["missing", "empty", "a file"])
@pytest.mark.parametrize("task", [*about_sets(), "image_folder", "table"])
def test_a_folder_without_its_data_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, kind: str
) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METALEARN_DATA", raising=False)
    root = tmp_path / "data"
    if kind == "empty":
        root.mkdir()
    elif kind == "a file":
        root.write_bytes(b"")
    with pytest.raises(UserError) as refused:
        _ = load_job([f"task={task}", f"task.root={root}"]).task.fingerprint
    sentence = str(refused.value)
    assert str(root) in sentence
    assert "\n" not in sentence
    if task in about_sets():
        assert "metalearn data prepare " in sentence
        assert "; or set METALEARN_DATA to" in sentence
    assert not (tmp_path / "cache").exists()


@pytest.mark.row("C9")
@pytest.mark.parametrize("algo", ["maml", "protonet"])
def test_images_of_one_colour_give_finite_figures(tmp_path: Path, algo: str) -> None:
    """Their variance is nothing, by which batch norm divides."""
    for number in range(12):
        folder = tmp_path / "images" / f"c{number:02}"
        folder.mkdir(parents=True)
        for image in range(2):
            Image.new("RGB", (16, 16), (7, 7, 7 if number else 8)).save(folder / f"{image}.png")
    small = ["task=image_folder", "task.root=images", "task.way=2", "task.query=1", "task.size=16", "model.filters=2"]
    small += ["task.val_share=0.2", "task.test_share=0.2"]
    succeed(tmp_path, "train", f"algo={algo}", *small, "debug=quick", "steps=3", "name=run", "threads=1")
    content = results(tmp_path, "run")
    assert content["mean"] is not None
    assert content["per_step"][-1]["diverged"] == 0


@pytest.mark.row("C16")
def test_a_name_that_holds_another_configuration_says_what_differs(tmp_path: Path) -> None:
    tiny = ["train", "debug=quick", "model.hidden=[8]", "threads=1", "name=one"]
    succeed(tmp_path, *tiny)
    paths = [path for path in (tmp_path / "outputs/one").rglob("*") if path.is_file() and path.name != "lock"]
    before = {path: path.read_bytes() for path in paths}
    refused = refuse(tmp_path, *tiny, "algo.inner_lr=0.1", "seed=3")
    assert "algo.inner_lr: 0.01 -> 0.1, seed: 0 -> 3" in refused
    assert all(path.read_bytes() == content for path, content in before.items())


def check(folder: Path, code: int, out: str, err: str, sentence: str) -> None:
    assert code == 1, err
    assert sentence in err
    assert err.startswith("metalearn: ")
    assert len(err.splitlines()) == 1
    assert out == ""
    assert {path.name for path in folder.iterdir()} <= {"out", "err"}
