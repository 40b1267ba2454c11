"""`metalearn predict`: what a trained model says of your own examples."""

from pathlib import Path

from metalearn_cli.config.conf_folder import key_options
from metalearn_cli.config.fields import types_in_source
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import check_usable
from metalearn_cli.system.limits import Hint

PLACE = 6
HELP = """\
Predict the classes of your own pictures, or the values of your own points.

metalearn predict [run=FOLDER] support=DIR|CSV query=DIR|FILES|PATTERN|CSV [out=FILE] [key=value ...]

  metalearn predict support=labelled query=photos         no training: a network that comes with weights, [pretrained]
  metalearn predict run=outputs/my-run support=labelled query=photos            a table on the screen
  metalearn predict run=outputs/my-run support=labelled query=photos out=predictions.csv      or .json
  metalearn predict run=outputs/my-run support=labels.csv query=a.jpg,b.png     labels.csv has the columns path,label
  metalearn predict run=outputs/my-run support=labelled query='photos/*.png'    or 'photos/**/*.png': its folders too
  metalearn predict run=my-model support=labelled query=photos                  a folder that `export` made
  metalearn predict run=outputs/my-vectors support=labelled.npz query=new.npz   vectors, of task=features
  metalearn predict run=outputs/my-sinusoid support=points.csv query=more.csv   columns x (or x1, x2, ...) and y

Without run= nothing is trained: ridge regression on the features of a network that comes with weights, or on vectors
of any program. It says how many of the support are right where they are left out, which are copies, and which classes
need more of them. model.name=efficientnet_lite0 (the default), FILE.safetensors, FILE.pth, FILE.onnx or timm:NAME,
model.size, model.runtime=torch|onnx, model.architecture, model.mean, model.std: as in model=pretrained.

support: a folder whose folders are the classes, each with one picture or more; or a CSV, whose paths begin at its own
folder. query: pictures without labels. A run of algo=soft_kmeans learns from unlabelled=DIR too, pictures of these
classes and of others. They are made like the run's own images, whatever their size and mode.
The output has path, label, the probability p_CLASS of each class, and `unlike`: true for a query that looks like no
class. Both are calibrated on validation tasks, or without a run on the support, and a sentence says what is promised.
If `unlike` cannot be measured, the column is left out. A run on ink (Omniglot) first makes paper white and ink black;
ink=as_is leaves both as they are.
For points the output has x, y and `outside_training`: true if x is outside of the range of the training tasks' inputs.
Any number of classes will do: if a learned head has another, each class starts at the mean of its rows, as a line says.

Of a run: batch_norm=inductive (the default; see metalearn eval --help), device, precision, algo.test_steps, trust: as
in eval. Only with batch_norm=transductive, or where the run's algorithm predicts all queries together (a sentence
says so), does a prediction depend on the other queries. threads, allocator: as in eval.
"""

OWNER = "metalearn_cli.trained.predict.Predict"
OF_RUN = ("algo.test_steps", "batch_norm", "device", "precision", "trust", "ink", "unlabelled")
NETWORK = "metalearn_cli.trained.embedded.Network"


def others() -> dict[str, Hint]:
    """The types of the keys with a dot."""
    of_network = {f"model.{key}": kind for key, kind in types_in_source(NETWORK).items()}
    return {"algo.test_steps": int, **of_network}


def complete(words: list[str]) -> list[str]:
    return [*key_options(words[-1], [*types_in_source(OWNER), *others()]), "--help "]


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import check_file, command_values

    values = command_values(arguments, "predict", OWNER, others())
    for word in ("support=DIR", "query=DIR"):
        if word.partition("=")[0] not in values:
            raise UserError(f"predict needs {word}: metalearn predict [run=outputs/my-run] support=DIR query=DIR")
    has_run = values.get("run") is not None
    if wrong := [key for key in values if (key.startswith("model.") if has_run else key in OF_RUN)]:
        why = "the run has its own network" if has_run else "it is of a run, and no run= is given"
        raise UserError(f"{wrong[0]}={values[wrong[0]]}: {why}: leave one of them out")
    if values.get("out") is not None:
        out = Path(values["out"])
        if out.suffix.lower() not in (".csv", ".json"):
            raise UserError(f"out={out} must be a file whose name ends in .csv or .json")
        check_file("out", out)
    if has_run:
        check_usable(Path(values["run"]))

    from metalearn_cli.trained.predict import predict

    predict(values)
    return 0
