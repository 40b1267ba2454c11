"""Classes of a user's own as parts of a configuration."""

import json
from pathlib import Path

import pytest
from commands import TINY, refuse, results, run, succeed
from omegaconf import OmegaConf

from metalearn_cli.config.schema import ConfigSource, build
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net
from metalearn_cli.tasks.base import Spec
from metalearn_cli.tasks.likelihood import Categorical


def test_a_users_own_class_from_a_file_beside_the_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from metalearn_cli.algorithms.base import *\n"
        "from metalearn_cli.algorithms.maml import MAML\n"
        "@dataclass(frozen=True)\n"
        "class Twice(Algorithm):\n"
        "    inner_lr: float = 0.1\n"
        "    factor: float = 2.0\n"
        "    test_steps: int = 1\n"
        "    names: list[str] = field(default_factory=list)\n"
        "    batch_norm = BatchNorm.transductive\n"
        "    def inner(self): return MAML(inner_lr=self.inner_lr * self.factor)\n"
        "    def init(self, net, rng): return self.inner().init(net, rng)\n"
        "    def adapt(self, net, meta, support, steps): return self.inner().adapt(net, meta, support, steps)\n"
        "    def meta_gradient(self, *a, **k): return self.inner().meta_gradient(*a, **k)\n"
    )
    command = ["train", "debug=quick", "threads=1", "model.hidden=[8]", "algo._target_=mine.Twice"]
    done = succeed(tmp_path, *command, "algo.inner_lr=0.005", "+algo.factor=2", "name=mine")
    assert "dropped" not in done.err  # nobody gave inner_steps, and what else the yaml of maml has
    assert "mine.Twice's own defaults stand: algo.test_steps=1 (not 10)\n" in done.err
    assert "outputs/mine: Twice on sinusoid" in done.err
    assert results(tmp_path, "mine")["algo"] == "Twice"
    assert json.loads((tmp_path / "outputs/mine/environment.json").read_text())["choices"]["algo"] == "Twice"
    succeed(tmp_path, "train", *TINY, "algo.test_steps=1", "algo.inner_lr=0.01", "name=maml")
    assert results(tmp_path, "mine")["mean"] == results(tmp_path, "maml")["mean"]
    assert "did you mean algo.factor?" in refuse(tmp_path, *command, "+algo.factr=2")
    succeed(tmp_path, "train", "-m", *command[1:], "+algo.factor=1,2", "name=sweep")
    assert {path.name for path in (tmp_path / "outputs/sweep").glob("*/")} == {"algo.factor=1", "algo.factor=2"}
    assert OmegaConf.load(tmp_path / "outputs/sweep/algo.factor=1/config.yaml").algo.factor == 1
    assert results(tmp_path, "sweep/algo.factor=1")["algo"] == "Twice"
    assert "already finished" in run(tmp_path, "train", "-m", *command[1:], "+algo.factor=2,3", "name=sweep").err
    succeed(tmp_path, *command)
    assert len(list((tmp_path / "outputs").glob("*/*-Twice-sinusoid-*"))) == 1
    assert "trust=true" in run(tmp_path, "eval", "run=outputs/mine").err
    succeed(tmp_path, "eval", "run=outputs/mine", "trust=true")


@pytest.mark.parametrize(
    ("file", "name", "sentence"),
    [
        ("class Mine(:\n", "Mine", "cannot be imported: SyntaxError: invalid syntax (mine.py line 1)"),
        ("x = 1\nx / 0\n", "Mine", "cannot be imported: ZeroDivisionError: division by zero (mine.py line 2)"),
        ("import torch\ntorch.nn.Linear('a', 1)\n", "Mine", " (mine.py line 2)"),
        ("import nowhere\n", "Mine", "ModuleNotFoundError: No module named 'nowhere' (mine.py line 1)"),
        ("raise SystemExit(0)\n", "Mine", "cannot be imported: SystemExit: 0 (mine.py line 1)"),
        ("class Mine: pass\n", "Mien", "there is no Mien in mine: did you mean mine.Mine?"),
        ("class Mine: pass\n", "Mine", "must be a frozen dataclass that implements"),
        (
            "from dataclasses import *\nfrom metalearn_cli.algorithms.maml import MAML\n@dataclass(frozen=True)\n"
            "class Mine(MAML):\n    def __post_init__(self): raise ValueError('too small')\n",
            "Mine",
            "algo._target_=mine.Mine cannot be made: ValueError: too small (mine.py line 5)",
        ),
        (
            "from dataclasses import *\nfrom metalearn_cli.algorithms.maml import MAML\n@dataclass(frozen=True)\n"
            "class Mine(MAML):\n    names: set[str] = frozenset()\n",
            "Mine",
            "cannot be made: ValidationError: Unexpected type annotation: set[str]",
        ),
    ],
)
def test_a_users_class_that_fails_is_named_with_the_line(tmp_path: Path, file: str, name: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(file)
    refused = refuse(tmp_path, "train", *TINY, f"algo._target_=mine.{name}", "name=one")
    assert sentence in refused
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("packed_omniglot")
def test_a_users_own_module_and_task(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import math, torch\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "from metalearn_cli.tasks.base import *\n"
        "from metalearn_cli.tasks.likelihood import SquaredError\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, spec, width=4):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(spec.input_shape[0], width, 3, stride=4), nn.BatchNorm2d(width),\n"
        "                                  nn.ReLU(), nn.Flatten())\n"
        "        self.body.append(nn.RReLU() if width == 13 else nn.Dropout(0.5))\n"
        "        self.head = nn.Linear(width * 49, spec.outputs)\n"
        "    def forward(self, x): return self.head(self.body(x))\n"
        "def made(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=4), nn.Flatten(), nn.Linear(147, num_classes))\n"
        "@dataclass(frozen=True)\n"
        "class Lines(TaskDistribution):\n"
        "    slope: float = 1.0\n"
        "    @property\n"
        "    def spec(self): return Spec((1,), 1, 1, SquaredError())\n"
        "    @property\n"
        "    def splits(self): return ('train', 'val', 'test')\n"
        "    @property\n"
        "    def fingerprint(self): return 'lines'\n"
        "    def draw(self, tasks, split, rng):\n"
        "        return {'x': torch.rand(tasks, 12, 1, generator=rng), 'key': draw_keys(tasks, rng)}\n"
        "    def gather(self, draw, device):\n"
        "        x = draw['x'].to(device)\n"
        "        y = self.slope * x\n"
        "        return Batch(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:], draw['key'].to(device))\n"
        "@dataclass(frozen=True)\n"
        "class Earlier(Lines):\n"
        "    @property\n"
        "    def spec(self): return Spec((1,), 1, 1, 'values')\n"
    )
    quick = ["train", "debug=quick", "threads=1"]
    for algo in ("maml", "protonet"):
        module = [f"algo={algo}", "task=omniglot", "task.query=2", "model._target_=mine.Net", "+model.width=3"]
        succeed(tmp_path, *quick, *module, f"name={algo}")
        assert results(tmp_path, algo)["batch_norm"] is not None
        assert "already finished" in run(tmp_path, *quick, *module, f"name={algo}").err
        succeed(tmp_path, "eval", f"run=outputs/{algo}", "trust=true")
    made = ["algo=protonet", "task=omniglot", "model._target_=mine.made", "+model.num_classes=outputs"]
    succeed(tmp_path, *quick, *made, "steps=1", "name=made")
    assert OmegaConf.load(tmp_path / "outputs/made/config.yaml").model == {
        "_target_": "mine.made",
        "num_classes": "outputs",
    }
    succeed(tmp_path, "eval", "run=outputs/made", "trust=true")
    for key, said in {"+model.widht=3": "did you mean model.width?", "+model.width=13": "RReLU"}.items():
        assert said in refuse(tmp_path, *quick, "task=omniglot", "model._target_=mine.Net", key)
    said = "task._target_=mine.Earlier has the likelihood 'values' in its spec: give Categorical(), SquaredError()"
    assert said in refuse(tmp_path, *quick, "task._target_=mine.Earlier", "model.hidden=[8]")
    succeed(tmp_path, *quick, "task._target_=mine.Lines", "+task.slope=2", "model.hidden=[8]", "name=lines")


@pytest.mark.parametrize("name", ["nets.bfloat16.Reduced", "nets.user_module.ModuleNet", "nets.pretrained.WithHead"])
def test_a_class_of_this_package_that_no_yaml_is_of_is_a_sentence(name: str) -> None:
    """A stranger's folder may name it."""
    with pytest.raises(UserError, match=rf"^model\._target_=metalearn_cli\.{name} (cannot be made: Val|must be a fr)"):
        build({"_target_": f"metalearn_cli.{name}"}, "model", Net, ConfigSource(), Spec((1,), 1, 1, Categorical()))


def test_weights_outside_of_a_folder_are_not_opened_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a path that leads out, nor by a link; pickles, ONNX files and the Hub are outside of every folder."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/link.safetensors").symlink_to(tmp_path / "net.safetensors")
    node = {"_target_": "metalearn_cli.nets.pretrained.Pretrained"}
    spec, source = Spec((3, 32, 32), 3, 3, Categorical()), ConfigSource(folder=Path("run"))
    outside = [
        "net.safetensors",
        "run/../net.safetensors",
        "run-2/net.safetensors",
        "run/link.safetensors",
        "/dev/zero",
    ]
    for name in (*outside, "run/net.pth", "run/net.onnx", "timm:resnet18", "timm:run/net.safetensors"):
        with pytest.raises(UserError, match=rf"^the run's model.name={name} is neither .*: give trust=true if you tru"):
            build({**node, "name": name}, "model", Net, source, spec)
    with pytest.raises(UserError, match=r"^the run's model.name=timm:net.safetensors is neither"):
        build({**node, "name": "timm:net.safetensors"}, "model", Net, source._replace(folder=Path()), spec)
    for name in ("run/net.safetensors", f"{tmp_path}/run/net.safetensors"):
        for trusted in (source, source._replace(trust=True, folder=None)):
            with pytest.raises(UserError, match=rf"^model.name={name} cannot be read \(No such file or directory\)"):
                build({**node, "name": name}, "model", Net, trusted, spec)
    with pytest.raises(UserError, match="holds a zero byte, which no path has"):
        build({**node, "name": "run/\0.safetensors"}, "model", Net, source, spec)
