"""A model outside of its run: metalearn export, and metalearn_cli.load of both."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from folders import rewrite
from PIL import Image
from tiny_runs import rows, train, write_list

import metalearn_cli
from metalearn_cli.errors import UserError
from metalearn_cli.trained import export
from metalearn_cli.trained.novelty import probabilities
from metalearn_cli.trained.predict import round_off


@pytest.fixture(scope="module")
def maml(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    return train(tmp_path_factory.mktemp("home"), "maml", photos)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, maml: Path) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    done = run(folder, "export", f"run={maml}", f"out={folder}/model", "threads=1")
    assert done.code == 0, done.err
    assert done.out == f"the model is in {folder}/model\n"
    assert "flag `unlike`: calibrated for 3-way 2-shot tasks" in done.err
    return folder / "model"


def task(photos: Path) -> tuple[list[Path], list[str], list[Path]]:
    support = [photos / f"class{number:02}/{place}.png" for number in range(3) for place in range(2)]
    return support, [path.parent.name for path in support], [photos / f"class{name}/7.png" for name in ("02", "00", 19)]


def test_an_export_needs_neither_run_nor_data_and_predicts_the_same(
    tmp_path: Path, photos: Path, maml: Path, exported: Path
) -> None:
    assert sorted(path.suffix for path in exported.iterdir()) == [".json", ".safetensors"]
    support, labels, query = task(photos)
    write_list(tmp_path / "support.csv", support, labels)
    files = f"query={','.join(map(str, query))}"
    for name, model in (("run", maml), ("export", exported)):
        done = run(tmp_path, "predict", f"run={model}", "support=support.csv", files, f"out={name}.csv", "threads=1")
        assert done.code == 0, done.err
    result, expected = rows(tmp_path / "export.csv"), rows(tmp_path / "run.csv")
    assert result == expected
    assert "unlike" in result[0]
    assert len(list(exported.iterdir())) == 2  # nothing is written into it
    config = json.loads((exported / "model.json").read_text())
    assert str(photos) not in json.dumps(config)


def test_what_predict_has_measured_goes_along(tmp_path: Path, photos: Path, maml: Path) -> None:
    support = [photos / f"class{number:02}/{place}.png" for number in range(4) for place in range(3)]
    write_list(tmp_path / "support.csv", support, [path.parent.name for path in support])
    model = shutil.copytree(maml, tmp_path / "outputs/other")
    predicted = run(tmp_path, "predict", f"run={model}", "support=support.csv", f"query={support[0]}", "threads=1")
    assert predicted.code == 0, predicted.err
    assert run(tmp_path, "export", f"run={model}", "out=mine", "threads=1").code == 0
    known = json.loads((tmp_path / "mine/model.json").read_text())["unlike"]
    assert (4, 3) in {(item["way"], item["shot"]) for item in known}
    twice = run(tmp_path, "export", f"run={model}", f"run={maml}", "out=other")
    assert (twice.code, twice.err) == (1, "metalearn: run= is given twice\n")


def test_it_is_loaded_from_either_folder_in_python(photos: Path, maml: Path, exported: Path) -> None:
    support, labels, query = task(photos)
    outputs = []
    for folder in (maml, exported):
        model = metalearn_cli.load(folder)
        x, q = model.read(support), model.read(query)
        assert x.shape == (6, 3, 16, 16)
        assert x.max() <= 1
        predictor = model.adapt(x, labels)
        assert predictor.classes == ["class00", "class01", "class02"]
        result = predictor(q)
        assert result.shape == (3, 3)
        torch.testing.assert_close(result.sum(1), torch.ones(3))
        outputs.append(predictor.outputs(q))  # the temperature is the export's own: it has been measured there
        numbered = model.adapt(x.numpy(), np.array([5, 5, 7, 7, 9, 9]))
        assert numbered.classes == [5, 7, 9]
        torch.testing.assert_close(numbered(q.numpy()), result)
        torch.testing.assert_close(model.adapt((255 * x).round().to(torch.uint8), labels)(q), result)
        torch.testing.assert_close(model.adapt(x.flip(0), labels[::-1])(q), result)
    torch.testing.assert_close(*outputs)
    flags = model.adapt(x, labels).unlike(q)
    assert flags.dtype == torch.bool
    assert flags.shape == (3,)
    of_twelve = model.adapt(x.repeat(2, 1, 1, 1), list("abcdefghijkl"))
    assert of_twelve.temperature in [known.temperature for known in model.thresholds if known.shot == 1]
    with pytest.raises(UserError, match="nothing is known of when a query is unlike every class"):
        of_twelve.unlike(q)


def test_files_and_pictures_are_prepared_as_predict_does(tmp_path: Path, photos: Path, exported: Path) -> None:
    """To the bit: a large JPEG that is decoded in full first gives other pixels."""
    support, labels, query = task(photos)
    large = tmp_path / "large.jpg"
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.effect_noise((900, 700), 90).convert("RGB").resize((450, 350)).save(large, exif=exif, quality=90)
    files = [*query, large]
    write_list(tmp_path / "support.csv", support, labels)
    query_files = f"query={','.join(map(str, files))}"
    done = run(
        tmp_path, "predict", f"run={exported}", "support=support.csv", query_files, "out=found.json", "threads=1"
    )
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "found.json").read_text())
    model = metalearn_cli.load(exported)
    by_tensors = model.adapt(model.read(support), labels).outputs(model.read(files))
    with ExitStack() as stack:
        opened = [stack.enter_context(Image.open(path)) for path in files]
        of_support = [stack.enter_context(Image.open(path)) for path in support]
        for x, q in (
            (support, files),
            (list(map(str, support)), tuple(map(str, files))),
            (np.array(list(map(str, support))), np.array(files)),
            (of_support, opened),
            (support, [str(files[0]), *files[1:-1], opened[-1]]),
        ):
            adapted = model.adapt(x, labels)
            outputs = adapted.outputs(q)
            assert torch.equal(outputs, by_tensors)
            chances = [
                list(map(round_off, row)) for row in probabilities(outputs.double(), adapted.temperature).tolist()
            ]
            assert [list(row["probabilities"].values()) for row in result] == chances
            assert [row["unlike"] for row in result] == adapted.unlike(q).tolist()
        for item in (files[-1], str(files[-1]), opened[-1]):
            assert torch.equal(model.read(item), model.read(files)[-1:])
            assert torch.equal(adapted(item), adapted(files[-1:]))
        decoded = opened[0]
        decoded.load()
        in_memory = [decoded, decoded.convert("RGBA"), Image.fromarray(np.asarray(decoded))]
        assert torch.equal(model.read(in_memory), model.read(query[:1] * 3))
        decoded.paste("red", (0, 0, 20, 20))  # what is in memory counts, and not the file
        assert not torch.equal(model.read(decoded), model.read(query[0]))
        assert decoded.size == (24, 20)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.zeros(2, 3, 16, 17), [0, 1], r"x is of shape \[2, 3, 16, 17\], and \[n, 3, 16, 16\] is expected"),
        (torch.zeros(3, 16, 16), [0, 1], r"and \[n, 3, 16, 16\] is expected"),
        (torch.full((2, 3, 16, 16), torch.nan), [0, 1], "x holds numbers that are not finite"),
        (torch.zeros(2, 3, 16, 16), [0, 1, 2], "y has 3 labels for 2 examples"),
        (torch.zeros(2, 3, 16, 16), [[0, 1], [1, 0]], "one for each is expected"),
        (torch.zeros(2, 3, 16, 16), [4, 4], "the support has one class only, 4"),
        (["a", "b"], [0, 1], r"2 of 2 pictures cannot be used: a cannot be read \(No such file or directory\); b can"),
        (["a", torch.zeros(3, 16, 16)], [0, 1], "x has files or pictures, and number 2 of type Tensor: give all of"),
        ([Image.new("L", (4, 4))] * 2, [0, 1], "1 is 4 x 4 pixels, and at least 8 a side are expected; number 2"),
        ([{}, {}], [0, 1], r"must be numbers in arrays or lists of one shape, and \[\{\}, \{\}\] is not \(points in"),
    ],
)
def test_what_does_not_fit_is_said(x: object, y: object, sentence: str, exported: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        metalearn_cli.load(exported).adapt(x, y)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_norm": "train"}, "batch_norm='train' must be one of transductive"),
        ({"precision": "fp16"}, "precision='fp16' must be one of fp32"),
        ({"precision": "tf32"}, "precision='fp32'"),
        ({"device": "cuda:9"}, "device=cuda:9, but torch sees"),
    ],
)
def test_settings_of_load_are_checked(settings: dict[str, str], sentence: str, exported: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        metalearn_cli.load(exported, **settings)  # type: ignore[arg-type]


def test_double_and_half_precision(photos: Path, exported: Path) -> None:
    support, labels, query = task(photos)
    result = {}
    for precision in ("fp32", "fp64", "bf16"):
        model = metalearn_cli.load(exported, precision=precision)
        result[precision] = model.adapt(model.read(support), labels)(model.read(query)).double()
    torch.testing.assert_close(result["fp32"], result["fp64"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result["bf16"], result["fp64"], atol=0.1, rtol=0.1)
    assert not torch.equal(result["bf16"], result["fp32"])


def test_damage_is_found_and_named(tmp_path: Path, exported: Path) -> None:
    model = with_value(exported, tmp_path, "format", 99)
    with pytest.raises(UserError, match="of format 99, and this version reads up to 1"):
        metalearn_cli.load(model)
    for content, sentence in (('{"format": 1}', r"model\.json has no step"), ("{", "cannot be read")):
        (model / "model.json").write_text(content)
        with pytest.raises(UserError, match=sentence):
            metalearn_cli.load(model)
    shutil.copytree(exported, model, dirs_exist_ok=True)
    (weights,) = model.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"is damaged, its hash is not the one in model\.json: export the run again"):
        metalearn_cli.load(model)
    weights.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        metalearn_cli.load(model)


def with_value(exported: Path, folder: Path, path: str, value: object) -> Path:
    """A copy of the export with another value at this path in its model.json."""
    model = Path(shutil.copytree(exported, folder / "model", dirs_exist_ok=True))
    content: Any = json.loads((exported / "model.json").read_text())
    part = content
    *above, last = (int(name) if name.isdigit() else name for name in path.split("."))
    for name in above:
        part = part[name]
    part[last] = value
    rewrite(model / "model.json", content)
    return model


@pytest.mark.parametrize(
    "path",
    [
        *("examples.spec.input_shape.1", "examples.spec.outputs", "examples.spec.train_outputs"),
        *("examples.preparation.size", "examples.preparation.channels", "examples.preparation.margin"),
        *("examples.preparation.by_way_of", "config.model.filters"),
    ],
)
def test_odd_widths_in_an_export_are_a_sentence(path: str, tmp_path: Path, exported: Path) -> None:
    allowed = {"examples.preparation.by_way_of": None, "examples.preparation.margin": 0}
    for odd in (-1, 0, "16", 16.0, True, None, [16], {"a": 1}, 10**12, 1e400, 10**400):
        if path in allowed and allowed[path] == odd:
            continue
        with pytest.raises(UserError) as raised:
            metalearn_cli.load(with_value(exported, tmp_path, path, odd))
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 800


@pytest.mark.parametrize(
    ("path", "odd", "sentence"),
    [
        ("examples", None, "model.json: examples is None, and an object is expected"),
        ("examples.spec.input_shape", [], "cannot be read (input_shape is []): it is not whole, or of another version"),
        ("examples.spec.input_shape", [3, 9999, 9999], "cannot be read (a size in spec is 299940003, and a"),
        ("examples.spec.input_shape", [3, 17, 17], "pictures become [3, 16, 16], and input_shape is [3, 17, 17]"),
        ("examples.spec.kind", "words", "examples.spec.kind is 'words', and one of classes, values is expected"),
        ("examples.spec.likelihood", {"floor": 1, "link": "exp"}, "floor is 1, and a share, 0 or above and below 1"),
        ("examples.spec.likelihood", {"floor": 0, "link": "exp"}, "a Gaussian has 3 outputs for classes"),
        ("examples.spec.padded", 1, "examples.spec.padded is 1, and true or false is expected"),
        ("examples.spec.outputs", 4, "learns one output per class, so task.train_way=3"),
        ("config.model.filters", 4, "than its configuration: block1.conv.weight is [3, 3, 3, 3] and should"),
        ("config.model.gamma", False, "of another model than its configuration: block1.norm.weight is in one only"),
        ("examples.preparation.resample", "sharp", "resample is 'sharp'"),
        ("examples.preparation.resize", "fold", "resize is 'fold', and one of crop, stretch, pad is expected"),
        ("config.model.filters", 10**6, "of another model than its configuration: "),  # 36 TB
        ("config.model.filters", 2**40, "cannot be made ("),
        ("config.model.filters", -3, "model.filters=-3 must be a whole number, 1 or above"),
        ("unlike", 3, "unlike is 3, and a list is expected"),
        ("unlike.0.shot", 0, "unlike[0].shot is 0, and a whole number, 1 or above is expected"),
        ("unlike.0.value", "high", "unlike[0].value is 'high', and a finite number is expected"),
    ],
)
def test_damage_in_an_export_is_named(path: str, odd: object, sentence: str, tmp_path: Path, exported: Path) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        metalearn_cli.load(with_value(exported, tmp_path, path, odd))


def test_odd_widths_in_a_runs_task_file_too(tmp_path: Path, maml: Path) -> None:
    model = Path(shutil.copytree(maml, tmp_path / "model"))
    content = json.loads((model / "task.json").read_text())
    content["spec"]["outputs"] = "three"
    rewrite(model / "task.json", content)
    done = run(tmp_path, "predict", f"run={model}", "support=x", "query=x")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "task.json: spec.outputs is 'three', and a whole number is expected" in done.err


def test_code_of_others_runs_with_trust_only(
    tmp_path: Path, exported: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign_maml.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\nfrom metalearn_cli.algorithms.maml import MAML as Mine\n"
    )
    monkeypatch.chdir(tmp_path)
    model = with_value(exported, tmp_path, "config.algo._target_", "foreign_maml.Mine")
    with pytest.raises(UserError, match=r"algo\._target_=foreign_maml\.Mine is not a part of metalearn.*trust=true"):
        metalearn_cli.load(model)
    assert not Path("ran").exists()
    assert metalearn_cli.load(model, trust=True).read([photos / "class00/0.png"]).shape == (1, 3, 16, 16)
    assert Path("ran").exists()


def test_no_function_of_this_package_is_called(tmp_path: Path, exported: Path, cache: Path) -> None:
    cache.mkdir()
    (part := cache / "set.part-1").touch()
    model = {"_target_": "metalearn_cli.tasks.packed_sets.clean", "words": ["unused=0"]}  # removes what is packed
    with pytest.raises(UserError, match=r"packed_sets\.clean must be a frozen dataclass that implements"):
        metalearn_cli.load(with_value(exported, tmp_path, "config.model", model))
    assert part.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("run={run} out=exported threads=0", "threads=0 must be a whole number from 1 to 1024"),
        ("run={run}", "export needs out="),
        ("out=x", "export needs run="),
        ("run={run} out={run}", "is there already"),
        ("run={run} out=nowhere/x", "there is no folder nowhere"),
        ("run={run} out=x steps=1", "export has no key steps"),
        ("run=nowhere out=x", "run=nowhere is not the folder of a run"),
    ],
)
def test_every_mistake_of_export_has_its_sentence(arguments: str, sentence: str, tmp_path: Path, maml: Path) -> None:
    done = run(tmp_path, "export", *arguments.format(run=maml).split())
    assert (done.code, done.out) == (1, "")
    assert sentence in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"out", "err"}


def test_what_fails_leaves_nothing(tmp_path: Path, maml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "model.json")

    monkeypatch.setattr(export, "write_durably", full)
    done = run(tmp_path, "export", f"run={maml}", "out=model")
    assert done.code == 1
    assert "No space left on device" in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"out", "err"}


def test_importing_the_package_imports_no_torch() -> None:
    code = "import metalearn_cli, sys; assert callable(metalearn_cli.load); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
