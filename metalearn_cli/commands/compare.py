"""`metalearn compare`: which run is better, on the same test episodes."""

from pathlib import Path

from metalearn_cli.config.conf_folder import folders_of_runs, key_options, key_values
from metalearn_cli.errors import UserError

PLACE = 4
HELP = """\
Compare runs on the same test episodes: which is better, and how sure that is.

metalearn compare FOLDER FOLDER ... [step=K] [batch_norm=MODE] [out=FILE.json]

  metalearn compare outputs/a outputs/b                       b minus a, paired by test episode, with its 95% interval
  metalearn compare outputs/a/eval/omniglot-1a2b3c4d outputs/b/eval/omniglot-5e6f7a8b
  metalearn compare outputs/sweep-a outputs/sweep-b           the seeds of a sweep are repetitions of one configuration
  metalearn compare outputs/my-sweep                          its configurations, each against the first
  metalearn compare 'outputs/maml-s*' 'outputs/anil-s*'       a pattern in quotes is one side
  metalearn compare outputs/a outputs/b step=1                after the first inner step, not after the last
  metalearn compare outputs/a outputs/b batch_norm=running    both in one batch-norm mode, where headlines differ

All must have been tested on the same episodes, or one on the first of another's, which their hashes prove. The interval
over episodes speaks of these very models; with two seeds or more on both sides there is one over seeds, and one over
both. p is of Student's t; of several comparisons with the first, Holm's correction. Exit codes: 0, and 1 for a mistake.
"""

KEYS = ("step", "batch_norm", "out")


def complete(words: list[str]) -> list[str]:
    return [*folders_of_runs(words[-1]), *key_options(words[-1], KEYS)]


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import check_file, split_folders

    folders, values = split_folders(arguments, KEYS, "compare")
    if not folders:
        raise UserError("no folder was given, and a comparison needs two: metalearn compare outputs/a outputs/b")
    out = Path(values["out"]) if "out" in values else None
    if out is not None:
        check_file("out", out)
    step, mode = values.get("step"), values.get("batch_norm")
    if step is not None and not step.isdigit():
        raise UserError(f"step={step} must be the number of an inner step, e.g. step=1")
    if mode is not None and mode not in key_values("batch_norm"):
        raise UserError(f"batch_norm={mode} must be one of {', '.join(key_values('batch_norm'))}")

    from metalearn_cli.compare.compare import compare

    compare(folders, out, mode, None if step is None else int(step))
    return 0
