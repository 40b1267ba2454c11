"""`metalearn bench`: how fast a configuration trains here."""

from metalearn_cli.commands.train import keys_and_values

PLACE = 8
HELP = """\
Measure how fast a training is here, and where its time goes.

metalearn bench [key=value ...]

  metalearn bench experiment=maml/sinusoid                    times for a minute what `train` would do
  metalearn bench experiment=maml/omniglot_5w1s threads=1     needs the task's data, as `train` does
  metalearn bench algo=maml task=sinusoid device=cuda precision=tf32

Prints tasks per second; the rate of a step's matrix products and convolutions beside that of a plain product on the
same device, measured in turn; the peak of memory; and how long each part takes: drawing tasks, gathering them on the
device, the step, and the episodes of a validation and of a test (in every batch-norm mode). Nothing is written, and
keys such as name, steps, init and stages make no difference.
"""


def complete(words: list[str]) -> list[str]:
    return ["--help "] if words[-1].startswith("-") else keys_and_values(words[-1])


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import compose_run

    composed, choices = compose_run(arguments)

    from metalearn_cli.config.job import train_job
    from metalearn_cli.system.console import Console, show
    from metalearn_cli.tuning.bench import bench

    show(bench(train_job(composed, choices, arguments), Console()))
    return 0
