"""One HTML page on some runs, which loads nothing from anywhere."""

import shlex
import time
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from metalearn_cli.compare.groups import Part
from metalearn_cli.config.conf_folder import GROUPS, Config, flatten
from metalearn_cli.config.overrides import compose_config
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import after
from metalearn_cli.report.charts import COLOURS, breakable
from metalearn_cli.report.figures import Figures, by_task, distributions, inner_steps, learning_curves, sweep_figures
from metalearn_cli.report.first_tasks import first_task
from metalearn_cli.report.rows import ALIGN, HEADER, TableRow, cells
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.version import __version__

# Nothing may be fetched, and nothing may be run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LEGEND = 8  # a longer one stands on the page once
PICTURED = 6  # runs whose first test task is shown


class Sweep(NamedTuple):
    """Runs of one argument in several settings."""

    name: str
    parts: list[Part]
    best: list[str]  # sentences


def page(
    title: str,
    every: list[RunFolder],
    rows: list[tuple[TableRow, bool]],
    sweeps: list[Sweep],
    warned: list[str],
) -> str:
    """The page; `rows` are the rows of the table, each with whether it is a mean over seeds."""
    legend = _legend(every)
    again = legend if len(every) <= LEGEND else ""
    defaults = {chosen: _defaults(chosen) for chosen in set(map(_choices, every))}  # to compose one takes long
    sections = [
        _figures("Learning curves", learning_curves(every), legend),
        _figures("Adapting to a test task", inner_steps(every), again),
        _figures("Test episodes", distributions(every), again),
        *(_figures(f"Sweep {one.name}", sweep_figures(one.parts), _paragraphs(one.best)) for one in sweeps),
        _first_tasks(every),
        "<h2>What was run</h2>" + "".join(_run(run, i, defaults[_choices(run)]) for i, run in enumerate(every, 1)),
    ]
    style = (Path(__file__).parent / "style.css").read_text()
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">{_lead(every)}</p>
{_warnings(warned)}
{_table(rows)}
<p class="note">± 95% is 1.96 standard deviations over test episodes / √episodes: the noise of the episodes for one
trained model, not that of training. In a row over seeds it is the interval of their mean by Student's t.</p>
{"".join(sections)}
<footer>metalearn {__version__}, {time.strftime("%Y-%m-%d %H:%M")}. Every figure comes from the folders named
above.</footer>
</main>
</body>
</html>
"""


def _lead(every: list[RunFolder]) -> str:
    done = [run for run in every if run.results is not None]
    if len(every) == 1 and (results := every[0].results) is not None:
        factor, unit = (100, "%") if results.metric == "accuracy" else (1, "")
        if results.mean is None:
            return f"{escape(results.metric)}: the mean over {results.episodes} test episodes is not finite"
        mean, ci95 = factor * results.mean, factor * (results.ci95 or 0.0)
        return (
            f"{escape(results.metric)} {mean:.4g} ± {ci95:.2g}{unit}{after(results.last.step)}, over "
            f"{results.episodes} test episodes of {escape(str(results.task))}"
        )
    if len(every) == 1 and (left := every[0].unfinished) is not None:
        return f"{left.state}, {left.progress}"
    tasks = ", ".join(sorted({task for task, _ in by_task(every)}))
    return f"{len(every)} runs, {len(done)} of them tested{f', on {escape(tasks)}' if tasks else ''}"


def _warnings(warned: list[str]) -> str:
    if not warned:
        return ""
    items = "".join(f"<li>{breakable(one)}</li>" for one in warned)
    head = '<section class="warnings" aria-label="Warnings"><strong>Before you read the figures</strong>'
    return f"{head}<ul>{items}</ul></section>"


def _table(rows: list[tuple[TableRow, bool]]) -> str:
    """The table without columns that are empty in every row."""
    number, lines = 0, []
    for one, is_over_seeds in rows:
        number += not is_over_seeds
        own = cells(one)
        lines.append([own[0] if is_over_seeds else f"{number}  {own[0]}", *own[1:]])
    kept = [i for i in range(len(HEADER)) if any(line[i] for line in lines)]
    kinds = ["r" if side == "r" else "" for side in ALIGN]
    head = "".join(f'<th class="{kinds[i]}" scope="col">{escape(HEADER[i])}</th>' for i in kept)
    body = ""
    for line, (_, is_over_seeds) in zip(lines, rows, strict=True):
        own = [f'<td class="{kinds[i]}{" main" * (HEADER[i] == "mean")}">{breakable(line[i])}</td>' for i in kept]
        body += f"<tr{' class=seeds' if is_over_seeds else ''}>{''.join(own)}</tr>"
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _legend(every: list[RunFolder]) -> str:
    """Number, colour and dashes of each run."""
    if len(every) == 1:
        return ""
    items = [
        f'<li><svg viewBox="0 0 30 12" aria-hidden="true"><path class="line s{i % COLOURS} dash{i // COLOURS % 3}" '
        f'd="M1,6L29,6"/></svg><b>{i + 1}</b>{breakable(str(run.folder))}</li>'
        for i, run in enumerate(every)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _figures(title: str, figures: Figures, legend: str = "") -> str:
    if not figures:
        return ""
    shown = "".join(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for caption, svg in figures)
    return f'<h2>{escape(title)}</h2>{legend}<div class="figures">{shown}</div>'


def _paragraphs(sentences: list[str]) -> str:
    return "".join(f"<p><strong>{escape(sentence)}</strong></p>" for sentence in sentences)


def _first_tasks(every: list[RunFolder]) -> str:
    """The first test tasks of the first few runs."""
    shown = []
    for i, run in enumerate(every[:PICTURED]):
        shown.append(f"<h3>{i + 1}  {escape(str(run.folder))}</h3>{first_task(run)}")
    rest = f"<p>Those of the other {len(every) - PICTURED} runs are left out.</p>" if len(every) > PICTURED else ""
    return f"<h2>The first test tasks</h2>{''.join(shown)}{rest}"


def _run(run: RunFolder, number: int, defaults: Config | None) -> str:
    """Everything that tells how a run came about; `defaults` are the keys of its choices."""
    environment = run.environment
    commit = environment.git_commit
    dirty = " with changes that were not committed" if environment.git_dirty else ""
    versions = [f"{key} {value}" for key in ("metalearn", "torch", "python") if (value := getattr(environment, key))]
    device = environment.gpu if str(run.config.get("device")) != "cpu" else None
    command = shlex.join(["metalearn", "eval" if run.is_evaluation else "train", *run.given])
    learned = ", ".join(f"{name} {value:.4g}" for name, value in (run.results.learned if run.results else {}).items())
    facts = {
        **({"state": _state(run)} if run.unfinished else {}),
        "command": f"<code>{escape(command)}</code>",
        "device": escape(
            f"{device or 'cpu: ' + (environment.processor or 'not known')}, {run.config.get('precision')}"
        ),
        "versions": escape(", ".join(versions)),
        "git commit": escape(f"{commit}{dirty}" if commit else "not a checkout"),
        "data": escape(environment.data or "not known"),
        "test episodes": escape(run.results.episodes_sha256 if run.results else "not tested yet"),
        **({"learned": escape(learned)} if learned else {}),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    full = (run.folder / "config.yaml").read_text(encoding="utf-8")
    return (
        f'<section class="run"><h3>{number}  {escape(str(run.folder))}</h3><dl>{listed}</dl>{_changes(run, defaults)}'
        f"<details><summary>Whole configuration</summary><pre>{escape(full)}</pre></details></section>"
    )


def _state(run: RunFolder) -> str:
    """How far an unfinished run is."""
    left = run.unfinished
    if left is None:
        return ""
    bar = f'<progress value="{left.step}" max="{max(left.steps, 1)}">{escape(left.progress)}</progress> '
    return bar + escape(left.sentence)


def _choices(run: RunFolder) -> tuple[str, ...]:
    """The chosen algorithm, task, model and optimizer, as a command line names them."""
    choices = run.environment.choices
    return tuple(f"{group}={choices[group]}" for group in GROUPS if group in choices)


def _defaults(chosen: tuple[str, ...]) -> Config | None:
    """The configuration of these choices, flat; None for a class of the user's own."""
    try:
        composed, _ = compose_config(list(chosen))
    except UserError:
        return None
    plain: Any = OmegaConf.to_container(composed)
    return flatten(plain)


def _changes(run: RunFolder, defaults: Config | None) -> str:
    """The keys that are not the defaults of the chosen algorithm, task, model and optimizer."""
    choices = run.environment.choices
    if defaults is None:
        return ""
    skipped = {"name", "paper", "threads"}
    changed = {
        key: (defaults[key], value)
        for key, value in run.config.items()
        if key in defaults and key not in skipped and not key.startswith("paper") and value != defaults[key]
    }
    items = "".join(
        f"<dt><code>{escape(key)}</code></dt><dd>{escape(str(value))} "
        f'<span class="note">(default {escape(str(default))})</span></dd>'
        for key, (default, value) in changed.items()
    )
    chosen = ", ".join(f"{group}={choice}" for group, choice in choices.items())
    about = f"Other than the defaults of {escape(chosen)}" if items else f"The defaults of {escape(chosen)}"
    return f"<p>{about}</p>{f'<dl>{items}</dl>' if items else ''}"
