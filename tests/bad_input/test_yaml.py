"""Row C19 of the fault matrix: a yaml that is not right is named with its line: one of conf/, which the user may have
written, and the config.yaml of a run, which may come from anywhere."""

import random
import resource
import shutil
from pathlib import Path

import pytest
import yaml
from commands import refuse, run
from places import MAML as GOLDEN

from metalearn_cli.config import conf_folder
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError

CONF = conf_folder.conf_dir()
MAML = (CONF / "algo" / "maml.yaml").read_text()
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
LINES = len(MAML.splitlines())

# What becomes of the yaml of an algorithm, and what the sentence must hold besides the file.
BAD = {
    "a tab": (MAML + "\tx: 1\n", f" line {LINES + 1} is not right: found character '\\t'"),
    "a key twice": (MAML + "inner_lr: 0.5\n", f" line {LINES + 1} is not right: found duplicate key inner_lr"),
    "not closed": (MAML + "x: [1, 2\n", f" line {LINES + 2} is not right: expected ',' or ']'"),
    "10 MB": (MAML + "# " + "x" * 10_000_000, " bytes, and 131,072 are read at most"),
    "no text": (MAML.encode() + b"# \xff\xfe", " is not text in UTF-8"),
    "a zero byte": (MAML + "\0", " is not right: special characters are not allowed"),
    "nothing": ("", " has no _target_, the class that it is about"),
    "a word": ("word\n", " has no _target_"),
    "a list": ("- 1\n- 2\n", " has no _target_"),
    "no class": (MAML.replace("_target_", "_tgt_"), " has no _target_"),
}
# Here the key is named, which stands in no other file.
NAMED = {
    "unknown class": (MAML.replace("maml.MAML", "maml.MALM"), "did you mean metalearn_cli.algorithms.maml.MAML?"),
    "unknown module": (MAML.replace("s.maml", "s.mami"), "algo._target_=metalearn_cli.algorithms.mami.MAML cannot be"),
    "unknown key": (MAML + "warp: 1\n", "algo.warp is not a key of MAML"),
    "a word for a number": (MAML.replace("0.01", "much"), "algo.inner_lr=much must be a finite number"),
    "a reference to nothing": (MAML.replace("0.01", "${nothing}"), "nothing"),
}


def own_conf(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes) -> Path:
    """A copy of conf/ whose maml.yaml holds this -> its path."""
    path = Path(shutil.copytree(CONF, folder / "conf")) / "algo" / "maml.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr(conf_folder, "__file__", str(folder / "metalearn_cli" / "config" / "conf_folder.py"))
    return path


@pytest.mark.row("C19")
@pytest.mark.parametrize("what", [*BAD, *NAMED])
def test_a_yaml_of_conf_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    content, sentence = (BAD | NAMED)[what]
    path = own_conf(tmp_path, monkeypatch, content)
    with pytest.raises(UserError) as refused:
        load_job([])
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (str(path) in str(refused.value)) is (what in BAD)


GOOD = (GOLDEN / "config.yaml").read_text()
OF_A_RUN = {
    "a tab": (GOOD + "\tx: 1\n", f"config.yaml line {len(GOOD.splitlines()) + 1}"),
    "a key twice": (GOOD + "seed: 3\n", f"config.yaml line {len(GOOD.splitlines()) + 1}"),
    "10 MB": (GOOD + "# " + "x" * 10_000_000, "and 131,072 are read at most"),
    "no text": (GOOD.encode() + b"# \xff\xfe", "is not text in UTF-8"),
    "nothing": ("", "holds no configuration"),
    "a word": ("word\n", "has no algo._target_"),
    "a list": ("- 1\n", "holds no configuration"),
    "no class": (GOOD.replace("_target_", "_tgt_", 1), "has no algo._target_: it is not whole, or of another version"),
    "no algorithm": (GOOD.replace("\nalgo:\n", "\nalgo: 3\nx:\n"), "has no algo._target_"),
    "deep": (GOOD + "x: " + "[" * 50_000, "config.yaml"),
}


@pytest.mark.row("C19")
@pytest.mark.parametrize("what", OF_A_RUN)
def test_the_configuration_of_a_run_is_named(tmp_path: Path, what: str) -> None:
    content, sentence = OF_A_RUN[what]
    path = shutil.copytree(GOLDEN, tmp_path / "outputs" / "run") / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refuse(tmp_path, "eval", "run=outputs/run")
    assert sentence in said
    assert "outputs/run/config.yaml" in said


@pytest.mark.row("C19")
@pytest.mark.parametrize("where", ["conf", "run"])
def test_a_bomb_is_named_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The file has 9 lists, and each holds the one before nine times: 9 to the 9th words."""
    if where == "conf":
        path, command, line = own_conf(tmp_path, monkeypatch, MAML + BOMB), ["train"], LINES + 2
    else:
        path = shutil.copytree(GOLDEN, tmp_path / "outputs" / "run") / "config.yaml"
        path.write_text(GOOD + BOMB)
        path, command, line = Path("outputs/run/config.yaml"), ["eval", "run=outputs/run"], len(GOOD.splitlines()) + 2
    # A process that needs more of the processor is killed: yaml's own loop cannot be interrupted.
    said = refuse(tmp_path, *command, first=lambda: resource.setrlimit(resource.RLIMIT_CPU, (20, 20)))
    assert said == f"metalearn: {path} line {line} has an alias, *a: write the value itself"


@pytest.mark.row("C19", ci=20, full=400)
def test_a_value_of_a_run_that_was_changed_is_a_sentence_or_another_test(attempt: int, tmp_path: Path) -> None:
    """Any value in the configuration of a run, replaced by one of another kind."""
    rng = random.Random(attempt)
    path = shutil.copytree(GOLDEN, tmp_path / "outputs" / "run") / "config.yaml"
    content = yaml.safe_load(path.read_text())
    node = content[rng.choice(conf_folder.GROUPS)] if rng.random() < 0.5 else content
    key = rng.choice(sorted(node))
    node[key] = rng.choice([None, True, -1, 0, 1e400, 3, "word", "", [], [1], {}, {"a": 1}, "nan", [[1]], "1e5"])
    path.write_text(yaml.safe_dump(content))
    done = run(tmp_path, "eval", "run=outputs/run", "test_episodes=2")
    assert "Traceback" not in done.err, (key, node[key], done.err)
    assert done.code in (0, 1), (key, node[key], done)
    assert done.code == 0 or len([line for line in done.err.splitlines() if line.startswith("metalearn: ")]) == 1
