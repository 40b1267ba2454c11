"""The command `metalearn`: results on stdout, everything else on stderr, one sentence for each mistake."""

import difflib
import io
import os
import sys
import traceback
from pathlib import Path

from metalearn_cli.commands.completion import COMPLETION, completions
from metalearn_cli.commands.help import COMMANDS, HELP, HELPS
from metalearn_cli.config import conf_folder
from metalearn_cli.errors import RunFailed, SaidByAnother, UserError
from metalearn_cli.system.console import tell
from metalearn_cli.system.signals import Interrupted, catch, end_at_once, leave_at_once, restore
from metalearn_cli.system.text import printable
from metalearn_cli.tasks.known_sets import about_sets
from metalearn_cli.version import __version__

_WITHOUT_OPTIONS = ("eval", "predict", "export", "compare", "report", "bench")  # keys and folders alone


def entry() -> None:
    # A stream that was closed (`2>&-`) is None, and its number would go to the next file that is opened.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout, sys.stderr = sys.stdout or open(1, "w"), sys.stderr or open(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal does not have is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    code = main(sys.argv[1:])
    catch(end_at_once)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a closed terminal: what is left for it would make another exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if is_one_of_several():
        os._exit(code)  # one rank of several: a thread of torch's may abort it on its way out, when all is written
    sys.exit(code)


def is_one_of_several() -> bool:
    """Whether torchrun started this process as one rank of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


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
    except SaidByAnother as ended:
        return ended.code
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        tell(f"metalearn: {printable(str(error))}")
        return 1
    except RunFailed as failed:
        tell("".join(traceback.format_exception(failed.__cause__)) + f"metalearn: {failed}")
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
        tell(f"metalearn: {error.strerror or error}: {printable(str(error.filename or 'a file of the run'))}")
        return 1
    except Exception as error:
        from metalearn_cli.system.measure import is_out_of_memory

        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_out_of_memory(error):
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        tell(f"metalearn: there is not enough memory ({what}): take tasks_per_chunk=1, or a smaller model or task")
        return 1


def run(arguments: list[str]) -> int:
    if "--help" in arguments[1:] or "-h" in arguments[1:]:
        print(HELPS.get(arguments[0], HELP), end="")
        return 0
    options = [argument for argument in arguments[1:] if argument.startswith("-")]
    if options and arguments[0] in _WITHOUT_OPTIONS:
        return refuse(f"{arguments[0]} does not know {' '.join(options)}; see metalearn {arguments[0]} --help")
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
        case ["predict", *rest]:
            return predict_command(rest)
        case ["export", *rest]:
            return export_command(rest)
        case ["bench", *rest]:
            return bench_command(rest)
        case ["reproduce", *rest]:
            return reproduce_command(rest)
        case ["compare", *rest]:
            return compare_command(rest)
        case ["report", *rest]:
            return report_command(rest)
        case ["data", *rest]:
            return data_command(rest)
        case ["list", *rest]:
            return list_command(rest)
        case ["doctor", *rest]:
            return doctor_command(rest)
        case ["completion", *rest]:
            return completion_command(rest)
        case _:
            near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "see metalearn --help"
            return refuse(f"there is no command {arguments[0]}: {hint}")


def train_command(arguments: list[str]) -> int:
    # Heavy imports stand where they are needed: help, lists, completion and most mistakes are told before torch is in.
    from metalearn_cli.config.overrides import compose_run

    options = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if "--cfg" in options and len(options) > 1:
        return refuse("--cfg job prints one job: leave the other options out, and give one value for each key")
    if "--cfg" in options and arguments[arguments.index("--cfg") + 1 :][:1] == ["job"]:
        overrides.remove("job")
        options = ["--cfg job"]
    is_alone = options in ([], ["--cfg job"]) and not is_one_of_several()  # several tell a mistake when they have met
    composed = compose_run(overrides) if is_alone else None

    from metalearn_cli.config.job import train_job
    from metalearn_cli.sweep.sweep import sweep
    from metalearn_cli.system.ranks import join
    from metalearn_cli.training.results_table import print_results
    from metalearn_cli.training.run import print_config, train_run

    match options:
        case []:
            with join() as ranks:
                job = train_job(*(composed or compose_run(overrides)), overrides)
                folder, results = train_run(job, overrides, ranks)
                return ranks.from_first(lambda: print_results(folder, results, job.run.expect))
        case ["--cfg job"]:
            return print_config(train_job(*(composed or compose_run(overrides)), overrides))
        case ["-m" | "--multirun"]:
            with join() as ranks:
                if ranks.size > 1:
                    raise UserError("-m starts runs of its own, and torchrun splits one: give one value for each key")
            return sweep(overrides)
        case _:
            return refuse(f"train does not know {' '.join(options)}; see metalearn train --help")


def eval_command(arguments: list[str]) -> int:
    from metalearn_cli.system.ranks import join
    from metalearn_cli.training.eval_job import load_eval_job
    from metalearn_cli.training.eval_run import eval_run
    from metalearn_cli.training.results_table import print_results

    with join() as ranks:
        run, job = load_eval_job(arguments)
        folder, results = eval_run(run, job, arguments, ranks)
        return ranks.from_first(lambda: print_results(folder, results, job.run.expect))


def predict_command(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import command_values

    given = command_values(arguments, "predict", "metalearn_cli.trained.predict.Predict", {"algo.test_steps": int})

    from metalearn_cli.trained.predict import predict

    predict(given)
    return 0


def export_command(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import command_values

    given = command_values(arguments, "export", "metalearn_cli.trained.export.Export", {})

    from metalearn_cli.trained.export import export

    export(given)
    return 0


def bench_command(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import compose_run

    composed, choices = compose_run(arguments)

    from metalearn_cli.config.job import train_job
    from metalearn_cli.system.console import Console, show
    from metalearn_cli.tuning.bench import bench

    show(bench(train_job(composed, choices, arguments), Console()))
    return 0


def reproduce_command(arguments: list[str]) -> int:
    from metalearn_cli.papers.reproduce import parse_budget, reproduce
    from metalearn_cli.papers.tables import listing, measured_table
    from metalearn_cli.papers.verdict import OWN
    from metalearn_cli.system.console import show

    given: dict[str, str] = {}
    rest: list[str] = []
    results = OWN
    words = iter(arguments)
    for word in words:
        if word in ("--seeds", "--budget", "--table"):
            given[word] = next(words, "")
        elif word.startswith("results="):
            results = Path(word.removeprefix("results="))
        elif word.startswith("-") and word != "--list":
            return refuse(f"reproduce does not know {word}; see metalearn reproduce --help")
        else:
            rest.append(word)
    overrides = [word for word in rest if "=" in word]
    names = [word for word in rest if "=" not in word and word != "--list"]
    seeds = given.get("--seeds", "0").split(",")
    if not all(seed.isdecimal() for seed in seeds):
        return refuse(f"--seeds {given['--seeds']} must be whole numbers, e.g. --seeds 0,1,2")
    if rest == ["--list"] and not given:
        show(listing())
    elif given.keys() == {"--table"} and given["--table"] and not rest:
        show(measured_table(given["--table"], results))
    elif names and "--table" not in given and "--list" not in rest:
        budget = parse_budget(given["--budget"]) if "--budget" in given else None
        show(reproduce(names, [int(seed) for seed in seeds], budget, overrides, results))
    else:
        return refuse("reproduce wants the names of rows, or --list, or --table and a task; see its --help")
    return 0


def compare_command(arguments: list[str]) -> int:
    from metalearn_cli.compare.compare import compare

    compare(arguments)
    return 0


def report_command(arguments: list[str]) -> int:
    from metalearn_cli.report.report import report

    report(arguments)
    return 0


def data_command(arguments: list[str]) -> int:
    from metalearn_cli.commands.data import ACTIONS, data
    from metalearn_cli.commands.packed_sets import clean, list_packed

    match arguments:
        case ["list"]:
            list_packed()
            return 0
        case ["clean", *words] if words:
            clean(words)
            return 0
        case [action, name, *options] if action in ACTIONS:
            data(action, name, options)
            return 0
        case _:
            return refuse(
                f"data wants one of {', '.join(ACTIONS)} and the name of a data set, or list, or clean and names of "
                "packed sets; see metalearn data --help"
            )


def doctor_command(arguments: list[str]) -> int:
    from metalearn_cli.commands.doctor import doctor
    from metalearn_cli.system.console import show

    if arguments:
        return refuse(f"doctor takes no options, and {arguments[0]} was given")
    text, is_well = doctor()
    show(text)
    return 0 if is_well else 1


def list_command(arguments: list[str]) -> int:
    groups = [*conf_folder.GROUPS, *conf_folder.PRESETS]
    match arguments:
        case ["metric"]:
            lines = conf_folder.METRICS
        case ["task"]:
            lines = {choice: task_line(choice) for choice in conf_folder.list_choices("task")}
            tell(
                f"data sets are looked for in {os.environ.get('METALEARN_DATA') or 'METALEARN_DATA, which is not set'}"
            )
        case [group] if group in groups:
            lines = {choice: conf_folder.describe(group, choice) for choice in conf_folder.list_choices(group)}
        case _:
            return refuse(f"list wants one of {', '.join([*groups, 'metric'])}")
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}")
    return 0


def task_line(choice: str) -> str:
    """What a task is; of one with a data set whether it is here, its size, its licence, and who made it."""
    about = conf_folder.describe("task", choice)
    if (known := about_sets().get(choice)) is None:
        return about
    is_here = bool(os.environ.get("METALEARN_DATA")) and known.is_in(known.folder_of())
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


def refuse(sentence: str) -> int:
    """An unknown command or option."""
    tell(f"metalearn: {printable(sentence)}")
    return 2
