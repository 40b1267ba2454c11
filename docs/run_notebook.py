"""Run docs/notebook.ipynb without Jupyter: `python docs/run_notebook.py [write]`, in an empty folder.

The code cells run in their order in this process; a line `!metalearn ...` is a command of this interpreter. `write`
keeps in the notebook what the cells show: what they print, and the last expression of each as a picture or a text.
"""

import ast
import base64
import contextlib
import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from metalearn_cli.cli import main as main_of_commands

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")
Output = dict[str, Any]


def command(words: str) -> None:
    """Run a command of this interpreter in this process, which imports torch once, and print what it says; raises
    where it fails."""
    program, *arguments = shlex.split(words)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main_of_commands(arguments) if program == "metalearn" else 1
    print(said.getvalue(), end="")
    if code:
        raise SystemExit(f"!{words} ended with {code}:\n{said.getvalue()}")


def shown(value: object) -> Output:
    """What Jupyter shows of the value of a cell."""
    data: Output = {"text/plain": [repr(value)]}
    if (picture := getattr(value, "_repr_png_", None)) is not None:
        data = {"image/png": base64.b64encode(picture()).decode(), "text/plain": [f"<{type(value).__name__}>"]}
    return {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data}


def run_cell(source: str, names: dict[str, Any]) -> list[Output]:
    """Run a cell among these names -> its outputs."""
    source = source.replace("\\\n", " ")
    lines = [f"command({line[1:]!r})" if line.startswith("!") else line for line in source.splitlines()]
    tree = ast.parse("\n".join(lines))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, outputs = io.StringIO(), list[Output]()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    return outputs if value is None else [*outputs, shown(value)]


def main(keep: bool) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__", "command": command}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            outputs = run_cell("".join(cell["source"]), names)
            kinds, kept = ([output["output_type"] for output in these] for these in (outputs, cell["outputs"]))
            if not keep and kinds != kept:
                raise SystemExit(f"a cell shows {kinds}, and in the notebook {kept}: run this with `write`")
            cell["outputs"] = outputs
    if keep:
        NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] == ["write"])
