"""`metalearn optimise`: Bayesian optimisation of new functions by a trained model."""

from pathlib import Path

from metalearn_cli.config.conf_folder import key_options
from metalearn_cli.config.fields import types_in_source
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import check_usable

PLACE = 14
HELP = """\
Search for the maximum of new functions by a trained model's densities, beside random search and others.

metalearn optimise run=FOLDER [acquisition=ei|ucb|thompson] [steps=30] [functions=100] [key=value ...]

  metalearn optimise run=outputs/my-cnp                                   expected improvement, 30 queries
  metalearn optimise run=outputs/my-cnp acquisition=thompson against=[random,gp,oracle]
  metalearn optimise run=outputs/my-pfn steps=50 functions=20 points=200 out=regret.json

The run's task draws the functions (gaussian_process, or curves), of its test distribution, on a grid of `points` over
their range. A search starts at one random point and asks for a value with noise `steps` times, for each point once at
most. The table has the simple regret after each query, of the function without its noise, with the 95% interval over
functions. All searches have the same functions, start and noise.

acquisition: ei (expected improvement over the largest value so far), ucb (the 97.5% quantile of a value) or thompson (a
sample of each point's value by itself, also of gp and oracle: a network's densities of two points are not joined).
against: random, gp (scikit-learn, fitted to each function by itself: pip install 'metalearn-cli[optimise]') and oracle
(the task's exact posterior, the ceiling); without it random, and oracle where the task has one.
out: a JSON file, beside which the picture lies (.svg); without it RUN/optimise-ACQUISITION.json.
seed: of the functions and the starts. device, threads, trust: as in eval.
"""

OWNER = "metalearn_cli.trained.optimise.Optimise"


def complete(words: list[str]) -> list[str]:
    if words[-1].startswith("acquisition="):
        return [f"acquisition={name} " for name in types_in_source(OWNER)["acquisition"].__members__]
    return [*key_options(words[-1], list(types_in_source(OWNER))), "--help "]


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import check_file, command_values

    values = command_values(arguments, "optimise", OWNER, {})
    if values.get("run") is None:
        raise UserError("optimise needs run=: metalearn optimise run=outputs/my-run")
    check_usable(Path(values["run"]))
    out = Path(values.get("out") or Path(values["run"]) / f"optimise-{values.get('acquisition', 'ei')}.json")
    if out.suffix.lower() != ".json":
        raise UserError(f"out={out} must be a file whose name ends in .json")
    check_file("out", out)

    from metalearn_cli.report.regret import show_regrets
    from metalearn_cli.trained.optimise import optimise

    show_regrets(optimise(values), out)
    return 0
