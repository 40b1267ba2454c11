"""`metalearn reproduce`: a paper's row, trained and tested again."""

import shutil
import sys
from difflib import get_close_matches
from pathlib import Path

from metalearn_cli.config.conf_folder import list_choices, paper_of, published_papers
from metalearn_cli.errors import UsageError, UserError
from metalearn_cli.system.limits import parse_duration

# What may be given besides: where and how fast a row is computed. All else would make it another row.
KEYS = (
    *("device", "threads", "allocator", "deterministic", "compile", "cuda_graph", "tasks_per_chunk", "memory"),
    *("task.root", "other_batch_norm", "save_every", "lock"),
)

FLAGS = ("--seeds", "--budget", "--list", "--table")
PLACE = 3
HELP = """\
Reproduce a paper's row: train, test, and show what was published beside it.

metalearn reproduce NAME ... [--seeds 0,1,2] [--budget 30m] [results=FILE] [key=value ...]
metalearn reproduce --list
metalearn reproduce --table omniglot [results=FILE]

  metalearn reproduce maml/sinusoid --seeds 0,1,2             trains the row with each seed, tests it, and prints the
                                                              paper's figure, the measured one, and a verdict
  metalearn reproduce maml/omniglot_5w1s --budget 30m         as many steps as fit into the time; the result is labelled
                                                              a short run; the final test takes extra time
  metalearn reproduce protonet/omniglot_5w1s device=cuda      device, threads, compile ... change how fast it is; a key
                                                              that would make it another row is refused
  metalearn reproduce --list                                  all rows: what was published, the time that each takes
                                                              here, its data, and what it needs
  metalearn reproduce --table sinusoid                        the measured figures of the rows on a task

The runs are outputs/reproduce/NAME/seed=N; the same command again continues them, and keeps finished ones.
Each becomes a line of outputs/reproduce/results.jsonl, or of results=FILE. In a checkout --table also shows what its
authors measured (benchmarks/papers/results.jsonl); `reproduce` writes to that file only if results= names it.
"""

RESULTS = Path("outputs/reproduce/results.jsonl")


def complete(words: list[str]) -> list[str]:
    return [f"{word} " for word in (*FLAGS, *published_papers())]


def run(arguments: list[str]) -> int:
    options: dict[str, str] = {}
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in ("--seeds", "--budget", "--table"):
            options[word] = next(words, "")
        elif word.startswith("results="):
            options["results"] = word.removeprefix("results=")
        else:
            others.append(word)
    results = Path(options.pop("results", RESULTS))
    overrides = [word for word in others if "=" in word]
    names = [word for word in others if "=" not in word and word != "--list"]
    seeds = options.get("--seeds", "0").split(",")
    if not all(seed.isdecimal() for seed in seeds):
        raise UsageError(f"--seeds {options['--seeds']} must be whole numbers, e.g. --seeds 0,1,2")
    budget = parse_duration(options["--budget"]) if "--budget" in options else None
    if budget == 0:
        raise UserError(f"--budget {options['--budget']} must be a time, e.g. 90s, 30m or 2h")
    is_list = others == ["--list"] and not options
    is_table = options.keys() == {"--table"} and bool(options["--table"]) and not others
    if names and "--table" not in options and "--list" not in others:
        _check(names, seeds, overrides, results)
    elif not is_list and not is_table:
        raise UsageError("reproduce needs the names of rows, or --list, or --table and a task; see its --help")

    from metalearn_cli.papers.reproduce import reproduce
    from metalearn_cli.papers.tables import listing, measured_table
    from metalearn_cli.papers.work import measured_speed
    from metalearn_cli.system.console import show, tell

    if is_list:
        tell("timing this machine for a second ...")
        show(listing(measured_speed(), shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    elif is_table:
        show(measured_table(options["--table"], results))
    else:
        show(reproduce(names, [int(seed) for seed in seeds], budget, overrides, results))
    return 0


def _check(names: list[str], seeds: list[str], overrides: list[str], results: Path) -> None:
    """Raises UserError for a name, seed, key, type or range that is wrong: without torch."""
    from metalearn_cli.config.overrides import check_file, compose_run, given_keys

    if len(set(map(int, seeds))) < len(seeds):
        raise UserError(f"--seeds {','.join(seeds)} names a seed twice: give each once")
    for name in names:
        if name not in list_choices("experiment") or "mean" not in paper_of(name):
            near = "".join(f": did you mean {match}?" for match in get_close_matches(name, published_papers(), n=1))
            raise UserError(f"{name} is not a row with a published figure{near} (reproduce --list names them)")
    for key in sorted(given_keys(overrides)):
        if key not in KEYS:
            raise UserError(f"{key} would make another row of it: reproduce takes {', '.join(KEYS)}")
    if results.parent != RESULTS.parent:
        check_file("results", results)
    for name in names if overrides else ():
        compose_run([f"experiment={name}", *overrides])
