"""`metalearn train`: one run, or a sweep of them."""

from metalearn_cli.config import conf_folder
from metalearn_cli.errors import UsageError, UserError
from metalearn_cli.system.processes import is_one_of_several

FLAGS = ("-m", "--multirun", "--cfg")
PLACE = 1
HELP = """\
Train and test a learner, or with -m many of them.

metalearn train [key=value ...] [-m] [--cfg job]

  metalearn train algo=maml task=sinusoid                     a task chooses a fitting network
  metalearn train algo=protonet                               an algorithm may choose a task
  metalearn train experiment=maml/sinusoid task.shot=5        a row of a paper, with one key changed
  metalearn train algo=maml algo.first_order=true steps=5000 name=my-run
                                                              the same line again continues outputs/my-run
  metalearn train algo=maml name=ci expect='mse_step1<=3.5'   exit code 3 if the test falls short
  metalearn train -m algo=maml,protonet task=omniglot seed=0,1,2 name=my-sweep
                                                              a sweep: one folder per job, outputs/my-sweep/...
  metalearn train -m task=table task.root=a.csv,b.csv         the same over files or folders; choice(a,b) if in doubt
  metalearn train -m sweep=optuna 'algo.inner_lr=tag(log,interval(0.001,1))' hydra.sweeper.n_trials=30 name=search
                                                              Optuna chooses the values by validation results
  metalearn train debug=quick algo=maml                       everything once: 20 steps and a small test
  metalearn train experiment=maml/sinusoid --cfg job          print the configuration, do nothing
  metalearn train algo._target_=my_file.MyAlgorithm +algo.my_key=1
                                                              your own class, from a file beside you

conf/config.yaml and the folders beside it explain each key beside its value.
Without a name the run's folder is outputs/<date>/<time>-<algo>-<task>-<id>, which no other run gets.
Ctrl-C, SIGTERM and a closed terminal finish the step and save; a second signal ends the program at once.
With -m, hydra/launcher=... and hydra/sweeper=... choose who starts the jobs and who chooses their values.
"""


def complete(words: list[str]) -> list[str]:
    if words[-2:-1] == ["--cfg"]:
        return ["job"]
    if words[-1].startswith("-"):
        return ["-m ", "--cfg ", "--help "]
    return keys_and_values(words[-1])


def keys_and_values(word: str) -> list[str]:
    """What a word of a training can become: a key, or one of its values."""
    choices = [(group, choice) for group in conf_folder.GROUPS for choice in conf_folder.list_choices(group)]
    keys = [key for group, choice in choices for key in conf_folder.keys_in_yaml(group, choice)]
    return conf_folder.key_options(word, [*conf_folder.GROUPS, *conf_folder.PRESETS, *conf_folder.run_keys(), *keys])


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import compose_run
    from metalearn_cli.config.sweep_values import check_sweep

    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    is_printed = "--cfg" in flags
    if is_printed and len(flags) > 1:
        raise UsageError("--cfg job prints one job: leave the other options out, and give one value for each key")
    if is_printed and arguments[arguments.index("--cfg") + 1 :][:1] != ["job"]:
        raise UsageError("train knows --cfg job; see metalearn train --help")
    if is_printed:
        overrides.remove("job")
    is_sweep = bool(flags) and not is_printed
    composed = None
    if not is_one_of_several():  # else a mistake is told when the processes have met
        if is_sweep:
            check_sweep(overrides)
        else:
            composed = compose_run(overrides)

    from metalearn_cli.config.job import train_job
    from metalearn_cli.sweep.sweep import sweep
    from metalearn_cli.system.ranks import join
    from metalearn_cli.training.results_table import print_results
    from metalearn_cli.training.run import print_config, train_run

    if is_printed:
        return print_config(train_job(*(composed or compose_run(overrides)), overrides))
    with join() as ranks:
        if not is_sweep:
            job = train_job(*(composed or compose_run(overrides)), overrides)
            folder, results = train_run(job, overrides, ranks)
            return ranks.from_first(lambda: print_results(folder, results, job.run.expect))
        if ranks.size > 1:
            raise UserError("-m starts runs of its own, and torchrun splits one: give one value for each key")
    return sweep(overrides)
