"""The real command, as a user gives it."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY, refuse, run, succeed
from places import PACKAGE, ROOT

from metalearn_cli.cli import main
from metalearn_cli.commands.completion import COMMANDS, SCRIPTS, completions
from metalearn_cli.config import conf_folder


def test_sentences_that_name_the_way_out(tmp_path: Path) -> None:
    """A sweep's folder for eval, two options for train, and the key of a class of one's own without a +."""
    succeed(tmp_path, "train", *TINY, "-m", "seed=0,1", "name=sweep")
    said = "is the folder of a sweep: give one of its runs, e.g. run=outputs/sweep/seed=0"
    assert said in refuse(tmp_path, "eval", "run=outputs/sweep")
    refused = run(tmp_path, "train", "-m", "seed=0,1", "--cfg", "job")
    assert (refused.code, "--cfg job prints one job" in refused.err) == (2, True)
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\nfrom metalearn_cli.algorithms.maml import MAML\n"
        "@dataclass(frozen=True)\nclass Own(MAML): width: int = 1\n"
    )
    for key, sentence in {
        "+algo.depth=2": "a class's keys are the fields of its frozen dataclass: depth: int = 1",
        "algo.width=2": "there is no key algo.width: give +algo.width=... for a key of your own class",
    }.items():
        assert sentence in refuse(tmp_path, "train", "algo._target_=own.Own", key)


@pytest.mark.row("C17")
def test_a_closed_stderr_is_not_an_error(tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-m", "metalearn_cli", "train", *TINY, "name=one"])
    done = subprocess.run(["sh", "-c", f"{command} 2>&-"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.endswith("results are in outputs/one\n")
    assert "train 20/20" in (tmp_path / "outputs/one/train.log").read_text()


def test_importing_the_program_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["metalearn", "--version"])
    monkeypatch.delitem(sys.modules, "metalearn_cli.__main__", raising=False)
    importlib.import_module("metalearn_cli.__main__")
    assert capsys.readouterr().out == ""


def test_help_lists_and_completions(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], *([name, "--help"] for name in COMMANDS), ["eval", "-h"]):
        assert main(arguments) == 0
        assert "metalearn" in capsys.readouterr().out
    for group in (*conf_folder.GROUPS, *conf_folder.PRESETS):
        assert main(["list", group]) == 0
        lines = capsys.readouterr().out.splitlines()
        listed = [line.split()[0] for line in lines]
        assert sorted(listed) == conf_folder.list_choices(group)
        assert group != "algo" or listed == sorted(listed, key=conf_folder.family_of)
        assert all(len(line.split()) > 3 for line in lines), lines
    assert main(["list", "metric"]) == 0
    assert "log_likelihood" in capsys.readouterr().out
    assert "algo.inner_lr=" in completions(["train", "algo.inn"])
    assert "tasks_per_step=" in completions(["train", "ta"])
    for line, options in {
        "tr": ["train "],
        "train algo=ma": ["algo=maml ", "algo=maml_plus_plus ", "algo=matching "],
        "train algo.inner_loss=": ["algo.inner_loss=mean ", "algo.inner_loss=way_times_mean "],
        "train batch_norm=t": ["batch_norm=transductive "],
        "train trust=t": ["trust=true "],
        "train -": ["--cfg ", "--help ", "-m "],
        "train ru": [],
        "eval ru": ["run="],
        "eval se": [],
        "compare batch_norm=r": ["batch_norm=running "],
        "report cs": ["csv="],
        "list tas": ["task"],
        "completion z": ["zsh"],
    }.items():
        assert completions(line.split(" ")) == options


def test_a_command_is_a_file(tmp_path: Path) -> None:
    """The one in CONTRIBUTING.md, in a copy of the package."""
    shutil.copytree(PACKAGE, tmp_path / "metalearn_cli", ignore=shutil.ignore_patterns("__pycache__"))
    (code,) = re.findall(r'```python\n("""`metalearn hello`.*?)```', (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (tmp_path / "metalearn_cli/commands/hello.py").write_text(code)

    def said(*arguments: str) -> str:
        command = [sys.executable, "-m", "metalearn_cli", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    lines = [line.split() for line in said("--help").splitlines() if line.startswith("  ")]
    names = [line[0] for line in lines if line[0] != "metalearn"]
    assert (names[0], names[-1]) == ("train", "hello")
    assert set(names) == {*COMMANDS, "hello"}
    assert said("completion", "words", "he") == "hello \n"
    assert said("hello") == "metalearn: hello needs the folder of one run, e.g. metalearn hello outputs/my-run\n"
    assert said("hello", str(ROOT / "tests/golden/runs/0.1.0/maml")).strip().isdecimal()


def test_runs_are_completed_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "my-sweep/seed=0", "my-sweep/seed=1", "with space", ".hidden"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert completions(["eval", "run="]) == ["run=outputs/"]
    assert completions(["eval", "run=outputs/"]) == ["run=outputs/my-sweep/", "run=outputs/one "]
    assert completions(["eval", "run=outputs/my-sweep/seed=1"]) == ["run=outputs/my-sweep/seed=1 "]
    assert completions(["eval", f"run={tmp_path}/outputs/o"]) == [f"run={tmp_path}/outputs/one "]
    assert completions(["eval", "run=nowhere/o"]) == []


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("metalearn tr", ["train "]),
        ("metalearn train --cfg ", ["job"]),
        ("metalearn train algo=prot", ["proto_maml ", "protonet "]),
        ("metalearn train -m algo=maml batch_norm=run", ["running "]),
        ("metalearn eval run=outputs/my-sweep/seed=1", ["1 "]),
    ],
)
def test_bash_gets_what_stands_behind_the_last_equal_sign(tmp_path: Path, line: str, replies: list[str]) -> None:
    """The function itself, called as bash calls it, with the words cut as bash cuts them."""
    (tmp_path / "outputs/my-sweep/seed=1").mkdir(parents=True)
    (tmp_path / "outputs/my-sweep/seed=1/config.yaml").touch()
    *parts, last = (part for part in re.split(r"(=)| ", line) if part is not None)
    words = [*filter(None, parts), last]
    script = (
        f'metalearn() {{ {shlex.quote(sys.executable)} -m metalearn_cli "$@"; }}\n'
        f"{SCRIPTS['bash'].replace('complete -o', ': complete -o')}\n"
        f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_WORDBREAKS='\"=:'\n"
        f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}\n"
        "_metalearn; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == replies


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train", "--sede"], ["list", "nothing"], ["eval", "-x"], ["doctor", "now"]]
)
def test_unknown_commands_and_options_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "metalearn: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["list", "metric"], 0, ""),
        (["train", *TINY, "name=one", "expect=mse<1e-9"], 3, "falls short of"),
    ],
)
@pytest.mark.row("C17")
def test_a_reader_that_stops_is_not_an_error(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    """`metalearn list metric | head -n 0`."""
    reader, writer = os.pipe()
    os.close(reader)
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.dup2(os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        os.chdir(tmp_path)
        os._exit(main(arguments))
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == code
    assert said in (tmp_path / "err").read_text()
    assert "pipe" not in (tmp_path / "err").read_text()


def test_a_full_disk_under_the_output_is_a_sentence() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "metalearn_cli", "list", "algo"], stdout=full, stderr=-1, text=True
        )
    said = "metalearn: No space left on device: the output, or a file\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.row("C17")
def test_stdout_is_for_results_and_a_log_has_no_bars_and_no_colour(tmp_path: Path) -> None:
    done = succeed(tmp_path, "train", *TINY, "name=one")
    assert not {"\r", "\x1b"} & {*done.out, *done.err}
    assert "train 20/20" in done.err
    of_results = ("test ", "inner ", " ", "constant: ", "results are in ")
    assert all(line.startswith(of_results) for line in done.out.splitlines())
    assert max(map(len, done.err.splitlines())) <= 80  # the picture of a task
