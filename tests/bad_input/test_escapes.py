"""Row C24 of the fault matrix: what a terminal or a spreadsheet would obey, in names and values that come from
elsewhere, is written out."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from commands import run, succeed
from foreign import COMMANDS, copy, forge
from tiny_runs import pictures, train

from metalearn_cli.cli import main
from metalearn_cli.system.console import Console, show, tell
from metalearn_cli.system.text import as_csv, lines, printable

TITLE = "\x1b]0;owned\x07"
EVIL = f"{TITLE}\x9b31m\u202egnp.exe\r\x00"
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e", "\r", "\x00")


def obeyed(text: str) -> list[str]:
    return [sign for sign in OBEYED if sign in text]


@pytest.mark.row("C24")
def test_signs_that_a_terminal_obeys_are_written_out() -> None:
    assert printable(TITLE) == "\\x1b]0;owned\\x07"
    assert printable("a\nb\u2028c\u202ed\ud800") == "a\\nb\\u2028c\\u202ed\\ud800"
    assert lines("a\n\tb\x9b\r\n") == "a\n\tb\\x9b\\r\n"
    for plain in ("été", "手書き", "\U0001f469\u200d\U0001f680", "a b", "- 1 ± 2 → ✗"):
        assert printable(plain) == lines(plain) == plain


@pytest.mark.row("C24")
def test_whatever_leaves_the_program_is_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(f"one\n{EVIL}")
    tell(EVIL)
    console = Console(tmp_path / "log")
    console.say(EVIL)
    console.note(f"{EVIL}\n2026-11-30 00:00:00 failed: forged")
    console.close()
    out, err = capsys.readouterr()
    log = (tmp_path / "log").read_text()
    assert not obeyed(out + err + log)
    assert out.startswith("one\n\\x1b]0;owned\\x07\\x9b31m\\u202e")
    assert log.count("\n2") == 1
    assert log.endswith("\n    2026-11-30 00:00:00 failed: forged\n")
    assert main([f"no-{EVIL}\nsuch command"]) == 2
    assert main(["train", f"name=../{EVIL}\nx"]) == 1
    assert main(["report", f"{EVIL}\nx"]) == 1
    assert not obeyed(capsys.readouterr().err)


@pytest.mark.row("C24")
def test_formulas_are_texts_in_a_spreadsheet_and_numbers_stay_numbers() -> None:
    formulas = ['=HYPERLINK("http://x")', "=cmd|' /C calc'!A0", "+cmd|x", "-2+3", "@SUM(A1)", "a;=1", "\t=1", "\r=1"]
    plain: list[Any] = ["-0.5", "+1", "-1e-3", "-inf", -0.5, 1e-9, None, True, "a,b", 'a"b', "", "cat"]
    text = as_csv([formulas, plain])
    rows = list(csv.reader(text.splitlines()))
    assert rows[0] == [*(f"'{one}" for one in formulas[:5]), "a;=1", "\\t=1", "\\r=1"]
    assert '"a;=1"' in text  # where the separator is a semicolon too
    assert rows[1] == ["-0.5", "+1", "-1e-3", "-inf", "-0.5", "1e-09", "", "True", "a,b", 'a"b', "", "cat"]


@pytest.mark.row("C24")
def test_classes_and_files_of_any_name_are_predicted(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    model = train(tmp_path, "protonet", images)
    names = ["=cmd|x", f"a{TITLE}<b>&amp;"]
    for number, name in enumerate(names):
        (tmp_path / "support" / name).mkdir(parents=True)
        for place in range(2):
            (images / f"class{number:02}/{place}.png").rename(tmp_path / "support" / name / f"{place}.png")
    (tmp_path / "query").mkdir()
    (images / "class00/2.png").rename(tmp_path / "query" / f"-1+1{TITLE}.png")
    (images / "class01/2.png").rename(tmp_path / "query" / "=1.png")
    command = ["predict", f"run={model}", "support=support"]
    done = succeed(tmp_path, *command, "query=query", "out=p.csv")
    assert not obeyed(done.out + done.err)
    rows = list(csv.reader((tmp_path / "p.csv").read_text().splitlines()))
    assert rows[0][:2] == ["path", "label"]
    assert rows[0][2:4] == ["p_=cmd|x", "p_a\\x1b]0;owned\\x07<b>&amp;"]
    assert {row[1] for row in rows[1:]} <= {"'=cmd|x", "a\\x1b]0;owned\\x07<b>&amp;"}
    shown = succeed(tmp_path, *command, "query=query")
    assert not obeyed(shown.out + shown.err)
    (tmp_path / "p").mkdir()
    (tmp_path / "query" / "=1.png").rename(tmp_path / "=1.png")
    assert run(tmp_path, *command, "query==1.png", "out=p.csv").code == 0  # a path that begins like a formula
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("'=1.png,")


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names += [tag, *(name for name, _ in attrs)]


@pytest.mark.row("C24")
def test_values_of_a_runs_folder_are_written_out_everywhere(made: Path, tmp_path: Path) -> None:
    """They are escaped in the table, the notes, results.csv and the page."""
    folder = copy(made, tmp_path)
    forged = folder / "outputs/run"
    succeed(folder, *COMMANDS["report"])
    before = set(Tags((folder / "report.html").read_text()).names)
    attack = f'=1+1{EVIL}"><script>alert(1)</script><img src=x onerror=y>'
    results = json.loads((forged / "results.json").read_text())
    results |= {"algo": attack, "task": attack, "batch_norm": attack, "learned": {attack: 1.0}}
    results |= {"baselines": {attack: {"mean": 1.0, "ci95": 0.1, "median": None}}, "episodes_sha256": attack}
    forge(forged / "results.json", results)
    environment = json.loads((forged / "environment.json").read_text())
    environment |= {"processor": attack, "torch": attack, "git_commit": attack, "data": attack, "gpu": attack}
    environment["choices"] |= {"debug": attack, "experiment": attack}
    forge(forged / "environment.json", environment)
    (forged / "overrides.txt").write_text(f"algo.inner_lr={attack}\n".replace("\r", ""))
    forge(forged / "outcome.json", {"failed": attack, "pruned": attack})
    (forged / "timing.jsonl").write_text(f"{attack}\n")
    done = succeed(folder, *COMMANDS["report"])
    page, table = (folder / "report.html").read_text(), (folder / "results.csv").read_text()
    assert not obeyed(done.out + done.err + page + table)
    names = set(Tags(page).names)
    assert names - before <= {"section", "strong", "ul", "li", "aria-label"}  # of the warnings
    assert "'=1+1" in table
    assert ",=1+1" not in table
