"""`metalearn predict`: what a trained model says of your own examples."""

from pathlib import Path

from metalearn_cli.config.conf_folder import key_options
from metalearn_cli.config.fields import types_in_source
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import check_usable

PLACE = 6
HELP = """\
Predict the classes of your own pictures, or the values of your own points.

metalearn predict run=FOLDER support=DIR|CSV query=DIR|FILES|PATTERN|CSV [out=FILE] [key=value ...]

  metalearn predict run=outputs/my-run support=labelled query=photos            a table on the screen
  metalearn predict run=outputs/my-run support=labelled query=photos out=predictions.csv      or .json
  metalearn predict run=outputs/my-run support=labels.csv query=a.jpg,b.png     labels.csv has the columns path,label
  metalearn predict run=outputs/my-run support=labelled query='photos/*.png'    or 'photos/**/*.png': its folders too
  metalearn predict run=my-model support=labelled query=photos                  a folder that `export` made
  metalearn predict run=outputs/my-vectors support=labelled.npz query=new.npz   vectors, of task=features
  metalearn predict run=outputs/my-sinusoid support=points.csv query=more.csv   columns x (or x1, x2, ...) and y

support: a folder whose folders are the classes, each with one picture or more; or a CSV, whose paths begin at its own
folder. query: pictures without labels. They are made like the run's own images, whatever their size and mode.
The output has path, label, the probability p_CLASS of each class, and `unlike`: true for a query that looks like no
class, by a threshold from validation tasks. A sentence says what the threshold promises. If it cannot be measured, the
column is left out. A run on ink (Omniglot) first makes paper white and ink black; ink=as_is leaves both as they are.
For points the output has x, y and `outside_training`: true if x is outside of the range of the training tasks' inputs.
Any number of classes will do: if a learned head has another, each class starts at the mean of its rows, as a line says.

batch_norm=inductive (the default; see metalearn eval --help), device, precision, threads, allocator, algo.test_steps,
trust: as in eval. Only with batch_norm=transductive, or where the run's algorithm predicts all queries together (a
sentence says so), does a prediction depend on the other queries.
"""

OWNER = "metalearn_cli.trained.predict.Predict"
STEPS: dict[str, type] = {"algo.test_steps": int}


def complete(words: list[str]) -> list[str]:
    return [*key_options(words[-1], [*types_in_source(OWNER), *STEPS]), "--help "]


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import check_file, command_values

    values = command_values(arguments, "predict", OWNER, STEPS)
    for word in ("run=outputs/my-run", "support=DIR", "query=DIR"):
        if word.partition("=")[0] not in values:
            raise UserError(f"predict needs {word}: metalearn predict run=outputs/my-run support=DIR query=DIR")
    if values.get("out") is not None:
        out = Path(values["out"])
        if out.suffix.lower() not in (".csv", ".json"):
            raise UserError(f"out={out} must be a file whose name ends in .csv or .json")
        check_file("out", out)
    check_usable(Path(values["run"]))

    from metalearn_cli.trained.predict import predict

    predict(values)
    return 0
