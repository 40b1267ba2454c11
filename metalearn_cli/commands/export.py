"""`metalearn export`: a run as a small folder."""

from pathlib import Path

from metalearn_cli.config.conf_folder import key_options
from metalearn_cli.config.fields import types_in_source
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import check_usable

PLACE = 7
HELP = """\
Export a run as a small folder, for predict and for Python.

metalearn export run=FOLDER out=DIR [device=...] [threads=...] [trust=true]

  metalearn export run=outputs/my-run out=my-model            needs neither the run nor its data afterwards
  metalearn predict run=my-model support=DIR query=DIR
  python -c 'import metalearn_cli; model = metalearn_cli.load("my-model")'

DIR gets model.json and the weights (safetensors; model.json has their hash). Loading it runs no code, except for
classes from outside of metalearn, which need trust=true, as do runs on weights from outside of their folder.
"""

OWNER = "metalearn_cli.trained.export.Export"


def complete(words: list[str]) -> list[str]:
    return [*key_options(words[-1], list(types_in_source(OWNER))), "--help "]


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import check_file, command_values

    values = command_values(arguments, "export", OWNER, {})
    for key in ("run", "out"):
        if key not in values:
            raise UserError(f"export needs {key}=: metalearn export run=outputs/my-run out=DIR")
    out = Path(values["out"])
    if out.exists():
        raise UserError(f"out={out} is there already: remove it, or take another name")
    check_file("out", out)
    check_usable(Path(values["run"]))

    from metalearn_cli.trained.export import export

    export(values)
    return 0
