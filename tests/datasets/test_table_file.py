"""Tables in files: what separates their cells, what a number is, and the sentence for each mistake."""

import sys
from pathlib import Path

import pytest

from metalearn_cli.datasets.table_file import TableFile, read_table
from metalearn_cli.errors import UserError


def write(folder: Path, text: str) -> Path:
    (folder / "a.csv").write_bytes(text.encode())
    return folder / "a.csv"


SHEET = "task;x;y\na;0,5;-1,25\na;1e-3;2\n"


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("text", [SHEET, SHEET.replace(",", "."), SHEET.replace(",", ".").replace(";", "\t")])
def test_a_table_of_a_spreadsheet_with_semicolons(tmp_path: Path, text: str, start: str) -> None:
    """The cells are as spreadsheets write them where a half is 0,5, or where the separator was chosen by hand."""
    table = read_table(write(tmp_path, start + text))
    assert list(table.cells) == ["task", "x", "y"]
    assert table.texts("task") == ["a", "a"]
    assert table.numbers("x").tolist() == [0.5, 0.001]
    assert table.numbers("y").tolist() == [-1.25, 2.0]


SEPARATED: dict[str, tuple[str, dict[str, list[str]]]] = {
    "a comma inside of quotes in every row": ('x;"a,b";y\n1;"2,3";4\n', {"x": ["1"], "a,b": ["2,3"], "y": ["4"]}),
    "a comma inside of quotes": ('task;"x, in m";y\na;1;2\n', {"task": ["a"], "x, in m": ["1"], "y": ["2"]}),
    "a comma inside of the first quotes": ('"x, in m";y\n1;2\n', {"x, in m": ["1"], "y": ["2"]}),
    "a semicolon inside of quotes": ('task,"x; y"\na,1\n', {"task": ["a"], "x; y": ["1"]}),
    "quotes inside of quotes": ('"a ""b"", c";d\n1;2\n', {'a "b", c': ["1"], "d": ["2"]}),
    "a line break inside of quotes": ('"a\n(m, s)";d\n1;2\n', {"a (m, s)": ["1"], "d": ["2"]}),
    "an inch": ('width 5",x;y\n1,2\n', {'width 5"': ["1"], "x;y": ["2"]}),
    "decimal commas": ("x, in m;y, in s\n1,5;2,5\n3;4\n", {"x, in m": ["1,5", "3"], "y, in s": ["2,5", "4"]}),
    "a semicolon in a name": ("f(x; y),z\n1,2\n", {"f(x; y)": ["1"], "z": ["2"]}),
    "tabs beside commas": ("x, in m\ty\n1\t2\n", {"x, in m": ["1"], "y": ["2"]}),
    "told by Excel": ("sep=;\nx,1;y\n1;2\n", {"x,1": ["1"], "y": ["2"]}),
    "told by Excel, quoted": ('"sep=|"\r\nx,1|y\r\n1|2\r\n', {"x,1": ["1"], "y": ["2"]}),
    "a tab told by Excel": ("\ufeffSEP=\t\nx,1\ty\n1\t2\n", {"x,1": ["1"], "y": ["2"]}),
    "remarks": ("# made by hand; in m, s\n#\n\nx,y\n1,2\n", {"x": ["1"], "y": ["2"]}),
    "a remark is a name below": ("x,y\n#1,2\n", {"x": ["#1"], "y": ["2"]}),
    "empty lines": ("\n\nx;y\n\n1;2\n;\n  \n3;4\n", {"x": ["1", "3"], "y": ["2", "4"]}),
    "empty columns": ("x;y;;\n1;2;;\n", {"x": ["1"], "y": ["2"]}),
    "lines of an old Mac": ("x;y\r1;2\r", {"x": ["1"], "y": ["2"]}),
    "one column": ("path\na.png\n", {"path": ["a.png"]}),
}


@pytest.mark.parametrize("what", SEPARATED)
def test_the_separator_of_the_cells_is_recognised(tmp_path: Path, what: str) -> None:
    text, cells = SEPARATED[what]
    assert {name: list(column) for name, column in read_table(write(tmp_path, text)).cells.items()} == cells


@pytest.mark.parametrize(
    ("separator", "cell", "number"), [("\t", "0,5", 0.5), (";", "1,000", 1.0), ("\t", "-12,25", -12.25)]
)
def test_a_number_may_have_a_decimal_comma_if_no_comma_separates_cells(
    tmp_path: Path, separator: str, cell: str, number: float
) -> None:
    path = write(tmp_path, f"x{separator}y\n{cell}{separator}1\n1,000{separator}2\n")
    assert read_table(path).numbers("x").tolist() == [number, 1.0]


NEEDS_2 = "needs as many cells as line 1 has names, 2, and has"
NO_NUMBER = "which is not a finite number"
AS_CLASS = f"{NO_NUMBER}: correct it, or take task.loss=classes"
LEAVE_OUT = f"{NO_NUMBER}: give every point one there, or leave its row out"
# A text, and the sentence on it as a table, or on its column y as a target.
ODD = {
    "a,b;c\n1,2;3\n": "as many cells in every row whether ',' or ';' separates them: put a line above the names",
    "a,b;c\n1,2;3\n1;2;3;4\n": f"line 3 {NEEDS_2} 1",
    '# a\nsep=;\n\nx;y\n1;2\n\n"3\n4";5\n6;7;8\n': "line 9 needs as many cells as line 4 has names, 2, and has 3",
    "x,y\n1,2\n# the end\n": f"line 3 {NEEDS_2} 1; a line with # at its start is a remark only above the names",
    'x,y\n1,2\n3,"4\n5,6\n': "line 3 is not CSV: unexpected end of data",
    'x,y\n"1\n",2\n3\n': f"line 4 {NEEDS_2} 1",
    "x;y\n1;2;3\n": f"line 2 {NEEDS_2} 3",
    "x;y\n;\n": "holds no points",
    "x;y,z\n": "holds no points",
    "": "holds no points",
    "\t,\n;,\n": "holds no points",
    "x,x\n1,2\n": "has two columns 'x': give each a name of its own",
    "x;\n1;2\n": "has a column without a name",
    "x|y\n1|2\n": "has no column y",
    "y;x\n1,5;1\n1.5;2\n": "line 3 holds 1.5 in column y, and {} line 2 1,5: write all numbers with a point, or all",
    "y;x\n1.000,5;1\n2;2\n": "line 2 holds 1.000,5 in column y, and {} line 2 1.000,5: write all numbers with a",
    "y;x\n1,000,000;1\n": f"line 2 holds 1,000,000 in column y, {NO_NUMBER}",
    "y\tx\n1,000\t1\n": "line 2 holds 1,000 in column y, which may be thousands or have a decimal comma: write it",
    'y,x\n"1,5",1\n': f"line 2 holds 1,5 in column y, {NO_NUMBER}",
    "x,y\n1,\n": "line 2 has nothing in column y: give every point a number there",
    "x,y\n1,2\n2,nan\n3,NaN\n": f"line 3 holds nan in column y (the first of 2 such cells), {LEAVE_OUT}",
    "x,y\n1,NA\n": f"line 2 holds NA in column y, {LEAVE_OUT}",
    "x,y\n1,-inf\n": f"line 2 holds -inf in column y, {LEAVE_OUT}",
    "x,y\n1,1e400\n": f"line 2 holds 1e400 in column y, {LEAVE_OUT}",
    "x,y\n1,cat\n": f"line 2 holds cat in column y, {AS_CLASS}",
    'x,y\n"1",2\n1,"a\nb"\n': f"line 3 holds a b in column y, {AS_CLASS}",
    "x,y\n1,1'000\n": f"line 2 holds 1'000 in column y, {AS_CLASS}",
    "x,y\n1,1_000\n": f"line 2 holds 1_000 in column y, {AS_CLASS}",
    "x,y\n1,3.2e\n": f"line 2 holds 3.2e in column y, {AS_CLASS}",
    "x,y\n1,2026-11-24\n": f"line 2 holds 2026-11-24 in column y, {AS_CLASS}",
}


@pytest.mark.parametrize("text", ODD)
@pytest.mark.row("C9")
def test_each_mistake_gets_its_sentence(tmp_path: Path, text: str) -> None:
    """A number is not guessed, and only what may be a class leads to task.loss=classes."""
    path = write(tmp_path, text)
    with pytest.raises(UserError) as refused:
        read_table(path).numbers("y", "target")
    assert ODD[text].format(path) in str(refused.value)


@pytest.mark.row("C9")
def test_a_hole_in_a_column_of_classes_is_not_a_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 3 holds nan in column y, where the others have numbers: give every"):
        read_table(write(tmp_path, "x,y\n1,3\n2,nan\n3,4\n")).labels("y")
    assert read_table(write(tmp_path, "x,y\n1,NA\n2,DE\n")).labels("y").tolist() == ["NA", "DE"]  # Namibia


def test_parquet_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UserError, match=r"a\.parquet needs pyarrow.*pip install 'metalearn-cli\[table\]'"):
        read_table(tmp_path / "a.parquet")


def test_mistakes_in_a_parquet_file_get_their_sentences(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def read(names: list[str]) -> TableFile:
        parquet.write_table(pyarrow.table([[1.0, None, 2.0], [1, 2, 3]], names=names), tmp_path / "b.parquet")
        return read_table(tmp_path / "b.parquet")

    with pytest.raises(UserError, match=r"b\.parquet row 2 has nothing in column x"):
        read(["x", "y"]).numbers("x")
    with pytest.raises(UserError, match="has a column without a name, like an index"):
        read(["x", "__index_level_0__"])
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet"):
        read_table(tmp_path / "a.parquet")
