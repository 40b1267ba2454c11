"""`metalearn reproduce`: a paper's row, trained and tested again."""

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

HELP = """\
Reproduce a paper's row: train, test, and show what was published beside it.

metalearn reproduce NAME ... [--seeds 0,1,2] [--budget 30m] [results=FILE] [key=value ...]
metalearn reproduce --list
metalearn reproduce --table omniglot [results=FILE]

  metalearn reproduce maml/sinusoid --seeds 0,1,2             trains the row with each seed, tests it, and prints the
                                                              paper's figure, what came out, and how they stand
  metalearn reproduce maml/omniglot_5w1s --budget 30m         as many steps as fit, which makes it a short run, and it
                                                              is called one; the final test comes on top
  metalearn reproduce protonet/omniglot_5w1s device=cuda      where and how fast: device, threads, compile ...; a key
                                                              that would make another row of it is refused
  metalearn reproduce --list                                  all rows, with the published figures
  metalearn reproduce --table sinusoid                        what was measured of the rows on a task

The runs are outputs/reproduce/NAME/seed=N; the same command again continues them, and takes what is finished as it is.
Each becomes a line of outputs/reproduce/results.jsonl, or of results=FILE. In a checkout --table shows what its authors
have measured (benchmarks/papers/results.jsonl) beside yours; `reproduce` writes to that file only if results= names it.
"""

FLAGS = ("--seeds", "--budget", "--list", "--table")


OWN = Path("outputs/reproduce/results.jsonl")


def complete(words: list[str]) -> list[str]:
    return ["--seeds ", "--budget ", "--list ", "--table ", *(f"{name} " for name in published_papers())]


def run(arguments: list[str]) -> int:
    given: dict[str, str] = {}
    rest: list[str] = []
    results = OWN
    words = iter(arguments)
    for word in words:
        if word in ("--seeds", "--budget", "--table"):
            given[word] = next(words, "")
        elif word.startswith("results="):
            results = Path(word.removeprefix("results="))
        else:
            rest.append(word)
    overrides = [word for word in rest if "=" in word]
    names = [word for word in rest if "=" not in word and word != "--list"]
    seeds = given.get("--seeds", "0").split(",")
    if not all(seed.isdecimal() for seed in seeds):
        raise UsageError(f"--seeds {given['--seeds']} must be whole numbers, e.g. --seeds 0,1,2")
    is_row = bool(names) and "--table" not in given and "--list" not in rest
    budget = parse_duration(given["--budget"]) if "--budget" in given else None
    if budget == 0:
        raise UserError(f"--budget {given['--budget']} must be a time, e.g. 90s, 30m or 2h")
    if is_row:
        _check(names, seeds, overrides, results)

    from metalearn_cli.papers.reproduce import reproduce
    from metalearn_cli.papers.tables import listing, measured_table
    from metalearn_cli.system.console import show

    if rest == ["--list"] and not given:
        show(listing())
    elif given.keys() == {"--table"} and given["--table"] and not rest:
        show(measured_table(given["--table"], results))
    elif is_row:
        show(reproduce(names, [int(seed) for seed in seeds], budget, overrides, results))
    else:
        raise UsageError("reproduce needs the names of rows, or --list, or --table and a task; see its --help")
    return 0


def _check(names: list[str], seeds: list[str], overrides: list[str], results: Path) -> None:
    """Raises UserError for a name, seed, key, type or range that is wrong: without torch."""
    from metalearn_cli.config.overrides import compose_run, given_keys

    if len(set(map(int, seeds))) < len(seeds):
        raise UserError(f"--seeds {','.join(seeds)} names a seed twice: give each once")
    for name in names:
        if name not in list_choices("experiment") or "mean" not in paper_of(name):
            near = "".join(f": did you mean {match}?" for match in get_close_matches(name, published_papers(), n=1))
            raise UserError(f"{name} is not a row with a published figure{near} (reproduce --list names them)")
    for key in sorted(given_keys(overrides)):
        if key not in KEYS:
            raise UserError(f"{key} would make another row of it: reproduce takes {', '.join(KEYS)}")
    if results.parent != OWN.parent and not results.parent.is_dir():
        raise UserError(f"results={results}: there is no folder {results.parent}: make it first")
    for name in names if overrides else ():
        compose_run([f"experiment={name}", *overrides])
