"""The command `metalearn`: results on stdout, everything else on stderr, one sentence for each mistake."""

import difflib
import os
import sys

from metalearn_cli import __version__, catalog
from metalearn_cli.datasets import sets
from metalearn_cli.errors import UserError
from metalearn_cli.interrupt import Interrupted, catch, end_at_once, leave_at_once, restore
from metalearn_cli.progress import tell

COMMANDS = ("train", "eval", "bench", "data", "list", "completion")

HELP = """\
metalearn: train, test and compare few-shot learners

  metalearn train algo=maml task=sinusoid steps=1000 name=my-run    meta-train and meta-test
  metalearn eval run=outputs/my-run test_episodes=1000              test a finished run once more
  metalearn bench experiment=maml/omniglot_5w1s                     how fast it trains here, and where the time goes
  metalearn list algo|task|model|optimizer|experiment|debug|metric  what there is, a line each
  metalearn data prepare|verify|path omniglot                       get a data set, check it, or say where it is
  metalearn train --help                                            examples, and how the keys work
  eval "$(metalearn completion bash)"                               completion of commands, keys, values, runs; or zsh
  metalearn completion fish | source                                the same in fish
  metalearn --version

Exit codes: 0 done, 1 a mistake or a failed run, 2 unknown command or option, 3 `expect` not met, 130 interrupted,
143 terminated, 129 terminal closed.
"""

TRAIN_HELP = """\
metalearn train [key=value ...] [-m] [--cfg job]

  metalearn train algo=maml task=sinusoid                     a task chooses a fitting network
  metalearn train algo=protonet                               an algorithm may choose a task
  metalearn train experiment=maml/sinusoid task.shot=5        a row of a paper, with one key changed
  metalearn train algo=maml algo.first_order=true steps=5000 name=my-run
                                                              the same line again continues outputs/my-run
  metalearn train algo=maml name=ci expect='mse_step1<=3.5'   exit code 3 where the test falls short
  metalearn train -m algo=maml,protonet task=omniglot seed=0,1,2 name=my-sweep
                                                              a sweep: one folder per job, outputs/my-sweep/...
  metalearn train debug=quick algo=maml                       everything once: 20 steps and a small test
  metalearn train experiment=maml/sinusoid --cfg job          print the configuration, do nothing
  metalearn train algo._target_=my_file.MyAlgorithm +algo.my_key=1
                                                              your own class, from a file beside you

Keys: conf/config.yaml and the folders beside it explain each where its value stands.
Without a name the run's folder is outputs/<date>/<time>-<algo>-<task>-<id>, which no other launch gets.
Ctrl-C, SIGTERM and a closed terminal finish the step and save; a second signal leaves at once.
With -m, hydra/launcher=... and hydra/sweeper=... choose who starts the jobs and who chooses their values.
"""

EVAL_HELP = """\
metalearn eval run=FOLDER [key=value ...]

  metalearn eval run=outputs/my-run test_episodes=1000        more episodes; the first 600 are the same
  metalearn eval run=outputs/my-run algo.test_steps=50        more inner steps
  metalearn eval run=outputs/my-run task.shot=5               other tasks of the same distribution
  metalearn eval run=outputs/my-run task=cifar_fs             another distribution; images get the run's size and
                                                              channels, and what was done is said and recorded
  metalearn eval run=outputs/my-run batch_norm=inductive      another headline; the others stand beside it

The run's own model and settings are used, but for keys that are given (precision and device among them). Results go to
FOLDER/eval/<task>-<id>, which the last line says; the id is made of what is tested: the same command finds its results
again, and another never overwrites them.
"""

BENCH_HELP = """\
metalearn bench [key=value ...]

  metalearn bench experiment=maml/sinusoid                    what `train` with the same keys would do, for a minute
  metalearn bench experiment=maml/omniglot_5w1s threads=1     needs the task's data, as `train` does
  metalearn bench algo=maml task=sinusoid device=cuda precision=tf32

Prints tasks per second; the rate of a step's matrix products and convolutions beside that of a plain product on the
same device, measured in turn; the peak of memory; and how long each part takes: drawing tasks, gathering them on the
device, the step, and the episodes of a validation and of a test (in every batch-norm mode). Nothing is written, so that
name, steps and other keys of a run's course change nothing here.
"""

DATA_HELP = """\
metalearn data prepare|verify|path NAME [archive=FILE] [root=FOLDER]

  metalearn data prepare omniglot                             fetch it, check it and pack it; a second time does nothing
  metalearn data prepare cub archive=CUB_200_2011.tgz         the same from an archive (zip, tar, tar.gz) that you have
  metalearn data verify omniglot                              read it and what is packed of it to the last byte
  metalearn data path omniglot                                where it is, and where it is packed, a line each
  metalearn list task                                         what there is, and what is found here

NAME is that of a task. A data set is in $METALEARN_DATA/<its folder>, or in root=FOLDER (for a run: task.root=FOLDER).
Where a licence wants that you fetch it yourself, prepare says how. Fetching goes on where a broken line has left off.
"""

LIST_HELP = "metalearn list algo|task|model|optimizer|experiment|debug|metric\n"


def entry() -> None:
    # A stream that was closed (`2>&-`) is None, and its number would go to the next file that is opened.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout, sys.stderr = sys.stdout or open(1, "w"), sys.stderr or open(2, "w")
    code = main(sys.argv[1:])
    catch(end_at_once)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a closed terminal: what is left for it would make another exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line -> the exit code."""
    before = catch(leave_at_once)
    try:
        return answer(arguments)
    except Interrupted as interrupted:  # while something else was said
        return interrupted.code
    finally:
        restore(before)


def answer(arguments: list[str]) -> int:
    """Run one command line, and say what ended it before its end -> the exit code."""
    code = 0
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        tell(f"metalearn: {error}")
        return 1
    except Interrupted as interrupted:
        tell(f"metalearn: stopped; {interrupted.advice or 'nothing was lost'}")
        return interrupted.code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    except OSError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        tell(f"metalearn: {error.strerror or error}: {error.filename or 'a file of the run'}")
        return 1


def run(arguments: list[str]) -> int:
    if "--help" in arguments[1:] or "-h" in arguments[1:]:
        helps = {"train": TRAIN_HELP, "eval": EVAL_HELP, "bench": BENCH_HELP, "data": DATA_HELP, "list": LIST_HELP}
        print(helps.get(arguments[0], HELP), end="")
        return 0
    match arguments:
        case [] | ["help" | "-h" | "--help", *_]:
            print(HELP, end="")
            return 0
        case ["--version"]:
            print(__version__)
            return 0
        case ["train", *rest]:
            return train_command(rest)
        case ["eval", *rest]:
            return eval_command(rest)
        case ["bench", *rest]:
            return bench_command(rest)
        case ["data", *rest]:
            return data_command(rest)
        case ["list", *rest]:
            return list_command(rest)
        case ["completion", *rest]:
            return completion_command(rest)
        case _:
            near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "see metalearn --help"
            return refuse(f"there is no command {arguments[0]}: {hint}")


def train_command(arguments: list[str]) -> int:
    # Heavy imports stand where they are needed, so that help, lists and completion are quick.
    from metalearn_cli.config import load_job
    from metalearn_cli.jobs import print_config, print_results, train_run
    from metalearn_cli.sweep import sweep

    options = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if "--cfg" in options and len(options) > 1:
        return refuse("--cfg job prints one job: leave the other options out, and give one value for each key")
    match options:
        case []:
            job = load_job(overrides)
            return print_results(*train_run(job, overrides), job.run.expect)
        case ["--cfg"] if arguments[arguments.index("--cfg") + 1 :][:1] == ["job"]:
            overrides.remove("job")
            return print_config(load_job(overrides))
        case ["-m" | "--multirun"]:
            return sweep(overrides)
        case _:
            return refuse(f"train does not know {' '.join(options)}; see metalearn train --help")


def eval_command(arguments: list[str]) -> int:
    from metalearn_cli.jobs import eval_run, load_eval_job, print_results

    options = [argument for argument in arguments if argument.startswith("-")]
    if options:
        return refuse(f"eval does not know {' '.join(options)}; see metalearn eval --help")
    folder, job = load_eval_job(arguments)
    return print_results(*eval_run(folder, job, arguments), job.run.expect)


def bench_command(arguments: list[str]) -> int:
    from metalearn_cli.bench import bench
    from metalearn_cli.config import load_job
    from metalearn_cli.progress import Console, show

    options = [argument for argument in arguments if argument.startswith("-")]
    if options:
        return refuse(f"bench does not know {' '.join(options)}; see metalearn bench --help")
    show(bench(load_job(arguments), Console()))
    return 0


def data_command(arguments: list[str]) -> int:
    from metalearn_cli.data import ACTIONS, data

    match arguments:
        case [action, name, *options] if action in ACTIONS:
            data(action, name, options)
            return 0
        case _:
            return refuse(
                f"data wants one of {', '.join(ACTIONS)}, and the name of a data set; see metalearn data --help"
            )


def list_command(arguments: list[str]) -> int:
    groups = [*catalog.GROUPS, *catalog.PRESETS]
    match arguments:
        case ["metric"]:
            lines = catalog.METRICS
        case ["task"]:
            lines = {choice: task_line(choice) for choice in catalog.list_choices("task")}
            tell(
                f"data sets are looked for in {os.environ.get('METALEARN_DATA') or 'METALEARN_DATA, which is not set'}"
            )
        case [group] if group in groups:
            lines = {choice: catalog.describe(group, choice) for choice in catalog.list_choices(group)}
        case _:
            return refuse(f"list wants one of {', '.join([*groups, 'metric'])}")
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}")
    return 0


def task_line(choice: str) -> str:
    """What a task is; of one with a data set whether it is here, its size, its licence, and who made it."""
    about = catalog.describe("task", choice)
    if (known := sets.SETS.get(choice)) is None:
        return about
    is_here = bool(os.environ.get("METALEARN_DATA")) and sets.is_in(choice, sets.folder_of(choice))
    size = f"{known.classes:>5,} classes  {known.images:>7,} images"
    makers = about.partition("(")[2].partition(")")[0]
    return f"{'found' if is_here else 'missing':<7}  {size}  {known.licence:<13}  {makers}"


def completion_command(arguments: list[str]) -> int:
    """`completion SHELL` prints what a shell needs; it then calls `completion words WORD...` at each TAB."""
    match arguments:
        case [shell] if shell in COMPLETION:
            print(COMPLETION[shell], end="")
        case ["words", *words]:
            print("\n".join(completions(words)))
        case _:
            return refuse("completion wants one of bash, zsh, fish; see metalearn --help")
    return 0


COMPLETION = {
    "bash": """\
_metalearn() {
  local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
  word="${word##* }"
  local words=($(metalearn completion words "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$word" 2>/dev/null))
  # bash cuts words at "=", and wants only what stands behind the last one.
  [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] && words=("${words[@]#"${word%=*}="}")
  COMPREPLY=("${words[@]}")
}
complete -o nospace -F _metalearn metalearn
""",
    "zsh": """\
_metalearn() {
  local -a found=("${(@f)$(metalearn completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -Q -S '' -- "${found[@]}"
}
compdef _metalearn metalearn
""",
    "fish": """\
function __metalearn
  set -l before (commandline -opc)
  metalearn completion words $before[2..] (commandline -ct) 2>/dev/null | string trim -r
end
complete -c metalearn -f -a '(__metalearn)'
""",
}


def completions(words: list[str]) -> list[str]:
    """What the last of the words (the command is the first) can become; a space ends what is complete."""
    command, last = words[0], words[-1]
    key, equals, typed = last.partition("=")
    if len(words) == 1:
        options = [f"{name} " for name in COMMANDS]
    elif command == "list":
        options = [*catalog.GROUPS, *catalog.PRESETS, "metric"]
    elif command == "completion":
        options = list(COMPLETION)
    elif command == "data":
        options = _data_options(words[1:-1])
    elif command not in ("train", "eval", "bench"):
        options = []
    elif words[-2] == "--cfg":
        options = ["job"]
    elif last.startswith("-"):
        options = ["-m ", "--cfg ", "--help "] if command == "train" else ["--help "]
    elif equals and command == "eval" and key == "run":
        options = [f"run={path}" for path in catalog.folders_of_runs(typed)]
    elif equals and key in (*catalog.GROUPS, *catalog.PRESETS):
        options = [f"{key}={choice} " for choice in catalog.list_choices(key)]
    elif equals:
        options = [f"{key}={value} " for value in catalog.values_of(key)]
    else:
        groups = ("task",) if command == "eval" else catalog.GROUPS
        keys = [
            key for group in groups for choice in catalog.list_choices(group) for key in catalog.keys_of(group, choice)
        ]
        rest = ["run", *catalog.EVAL_KEYS] if command == "eval" else [*groups, *catalog.PRESETS, *catalog.run_keys()]
        options = [f"{key}=" for key in [*rest, *keys]]
    return sorted({option for option in options if option.startswith(last)})


def _data_options(before: list[str]) -> list[str]:
    match before:
        case []:
            return ["prepare ", "verify ", "path "]
        case [_]:
            return [f"{name} " for name in sets.SETS]
        case ["prepare", *_]:
            return ["archive=", "root="]
        case _:
            return ["root="]


def refuse(sentence: str) -> int:
    """An unknown command or option."""
    tell(f"metalearn: {sentence}")
    return 2
