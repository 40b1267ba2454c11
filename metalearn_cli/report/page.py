"""One HTML page on some runs, which loads nothing from anywhere."""

import base64
import io
import shlex
import time
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from PIL import Image

from metalearn_cli.compare.groups import Part
from metalearn_cli.config.conf_folder import GROUPS, Config, flatten
from metalearn_cli.config.overrides import compose_config
from metalearn_cli.errors import UserError
from metalearn_cli.learning.leakage import in_words
from metalearn_cli.learning.scores import after_steps, text_of, with_labels, with_names
from metalearn_cli.pictures.raster import heading, picture, png
from metalearn_cli.report.charts import COLOURS, breakable
from metalearn_cli.report.figures import Figures, distributions, inner_steps, learning_curves, sweep_figures, task_name
from metalearn_cli.report.rows import ALIGN, SHOWN, TableRow, cells
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.run_folder.records import arrays_of
from metalearn_cli.system.files import read_bytes
from metalearn_cli.tasks.metrics import METRICS
from metalearn_cli.version import __version__

LEGEND = 8  # a longer one stands on the page once
PICTURED = 6  # runs whose first test task is shown
MOST_PIXELS = 30_000_000  # of test.png


class Sweep(NamedTuple):
    """Runs of one argument in several settings."""

    name: str
    parts: list[Part]
    best: list[str]  # sentences


def page(title: str, runs: list[RunFolder], rows: list[TableRow], sweeps: list[Sweep], warned: list[str]) -> str:
    legend = _legend(runs)
    again = legend if len(runs) <= LEGEND else ""
    defaults = {chosen: _defaults(chosen) for chosen in set(map(_choices, runs))}  # to compose one takes long
    best = {
        sweep.name: "".join(f"<p><strong>{escape(sentence)}</strong></p>" for sentence in sweep.best)
        for sweep in sweeps
    }
    sections = [
        _figures("Learning curves", learning_curves(runs), legend),
        _figures("Adapting to a test task", inner_steps(runs), again),
        _figures("Test episodes", distributions(runs), again),
        *(_figures(f"Sweep {sweep.name}", sweep_figures(sweep.parts), best[sweep.name]) for sweep in sweeps),
        _first_tasks(runs),
        "<h2>What was run</h2>",
        *(_run(run, number, defaults[_choices(run)]) for number, run in enumerate(runs, 1)),
    ]
    html, style = ((Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("page.html", "style.css"))
    return Template(html).substitute(
        **{"title": escape(title), "style": style, "lead": _lead(runs), "table": _table(rows)},
        **{"warnings": _warnings(warned), "sections": "".join(sections)},
        **{"version": __version__, "time": time.strftime("%Y-%m-%d %H:%M")},
    )


def _lead(runs: list[RunFolder]) -> str:
    tested = [run for run in runs if run.results is not None]
    if len(runs) == 1 and (unfinished := runs[0].unfinished) is not None and not tested:
        return f"{unfinished.state}, {unfinished.progress}"
    if len(runs) > 1 or (results := runs[0].results) is None:
        tasks = ", ".join(sorted({task_name(run) for run in tested}))
        return f"{len(runs)} runs, {len(tested)} of them tested{f', on {escape(tasks)}' if tasks else ''}"
    over = f"over {results.episodes} test episodes of {escape(str(results.task))}"
    if results.mean is None:
        return f"{results.metric}: the mean {over} is not finite"
    mean, ci95 = text_of(results.mean, results.metric), text_of(results.ci95 or 0.0, results.metric)
    return f"{results.metric} {mean} ± {ci95}{METRICS[results.metric].unit}{after_steps(results.last.step)}, {over}"


def _warnings(warned: list[str]) -> str:
    if not warned:
        return ""
    items = "".join(f"<li>{breakable(sentence)}</li>" for sentence in warned)
    head = '<section class="warnings" aria-label="Warnings"><strong>Before you read the figures</strong>'
    return f"{head}<ul>{items}</ul></section>"


def _table(rows: list[TableRow]) -> str:
    """Write the table, without the columns that are empty in every row."""
    number, lines = 0, []
    for row in rows:
        number += row["runs"] == 1
        name, *others = cells(row)
        lines.append([f"{number}  {name}" if row["runs"] == 1 else name, *others])
    columns = [
        (i, heading, "r" if side == "r" else "")
        for i, (heading, side) in enumerate(zip(SHOWN, ALIGN, strict=True))
        if any(line[i] for line in lines)
    ]
    head = "".join(f'<th class="{kind}" scope="col">{escape(heading)}</th>' for _, heading, kind in columns)
    body = ""
    for line, row in zip(lines, rows, strict=True):
        tds = [f'<td class="{kind}{" main" * (name == "mean")}">{breakable(line[i])}</td>' for i, name, kind in columns]
        body += f"<tr{'' if row['runs'] == 1 else ' class=seeds'}>{''.join(tds)}</tr>"
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _legend(runs: list[RunFolder]) -> str:
    """Show the number, colour and dashes of each run."""
    if len(runs) == 1:
        return ""
    items = [
        f'<li><svg viewBox="0 0 30 12" aria-hidden="true"><path class="line s{i % COLOURS} dash{i // COLOURS % 3}" '
        f'd="M1,6L29,6"/></svg><b>{i + 1}</b>{breakable(str(run.folder))}</li>'
        for i, run in enumerate(runs)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _figures(title: str, figures: Figures, above: str) -> str:
    if not figures:
        return ""
    shown = "".join(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for caption, svg in figures)
    return f'<h2>{escape(title)}</h2>{above}<div class="figures">{shown}</div>'


def _first_tasks(runs: list[RunFolder]) -> str:
    """Show the first test tasks of the first few runs."""
    shown = [f"<h3>{i}  {escape(str(run.folder))}</h3>{_first_task(run)}" for i, run in enumerate(runs[:PICTURED], 1)]
    rest = f"<p>Those of the other {len(runs) - PICTURED} runs are left out.</p>" if len(runs) > PICTURED else ""
    return f"<h2>The first test tasks</h2>{''.join(shown)}{rest}"


def _first_task(run: RunFolder) -> str:
    """Show a run's first test tasks, or say why there is nothing to show."""
    if run.results is None:
        return "<p>Not finished: nothing was tested yet.</p>"
    file, older = run.folder / "examples.npz", run.folder / "test.png"
    if file.exists():
        arrays = arrays_of(file)
        try:
            return _image(picture(arrays), f"The first test tasks: {heading(arrays)}")
        except Exception as error:  # whatever numpy and Pillow raise where arrays are missing, or do not fit together
            cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{file} does not hold a run's test tasks ({cause}): remove it") from error
    if not older.exists():
        return "<p>This kind of task has no picture: it has neither images nor curves of one variable.</p>"
    try:  # an earlier version wrote no examples.npz
        with Image.open(io.BytesIO(read_bytes(older)), formats=["PNG"]) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
            return _image(opened.convert("RGB"), "The first test tasks and what was predicted")
    except Exception as error:  # whatever the system and Pillow raise where this is not a PNG
        cause = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{older} is not a picture of a run's test tasks ({cause}): remove it") from error


def _image(image: Image.Image, about: str) -> str:
    """Write the pixels alone, encoded again: a file may be anybody's."""
    data = base64.b64encode(png(image)).decode()
    return f'<figure><img class="test" src="data:image/png;base64,{data}" alt="{escape(about)}"></figure>'


def _run(run: RunFolder, number: int, defaults: Config | None) -> str:
    """Tell how a run came about; `defaults` are the keys of its choices."""
    environment, results, unfinished = run.environment, run.results, run.unfinished
    dirty = " with changes that were not committed" if environment.git_dirty else ""
    versions = [f"{key} {value}" for key in ("metalearn", "torch", "python") if (value := getattr(environment, key))]
    on_gpu = environment.gpu if str(run.config.get("device")) != "cpu" else None
    device = on_gpu or f"cpu: {environment.processor or 'not known'}"
    command = shlex.join(["metalearn", "eval" if run.is_evaluation else "train", *run.given_words])
    facts = {
        "command": f"<code>{escape(command)}</code>",
        "device": escape(f"{device}, {run.config.get('precision')}"),
        "versions": escape(", ".join(versions)),
        "git commit": escape(f"{environment.git_commit}{dirty}" if environment.git_commit else "not a checkout"),
        "data": escape(environment.data or "not known"),
        "test episodes": escape(results.episodes_sha256 if results else "not tested yet"),
    }
    if (network := environment.network) is not None:
        about = f"{network.name}: {network.about}; licence {network.licence}; sha256 {network.sha256}"
        facts["weights"] = breakable(about)
    if unfinished is not None:
        bar = f'<progress value="{unfinished.step}" max="{max(unfinished.steps, 1)}">{unfinished.progress}</progress>'
        facts = {"state": f"{bar} {escape(unfinished.sentence)}", **facts}
    if results is not None and results.beside:
        facts[f"beside {results.metric}"] = escape(with_names(results.beside))
    if results is not None and results.baselines:
        facts["on the same episodes"] = escape(
            with_labels(results.baselines, results.metric, results.baseline_episodes)
        )
    if results is not None and results.leakage is not None:
        facts["what the weights know"] = escape(in_words(results.leakage))
    if results is not None and results.learned:
        facts["learned"] = escape(", ".join(f"{name} {value:.4g}" for name, value in results.learned.items()))
    full = (run.folder / "config.yaml").read_text(encoding="utf-8")
    return (
        f'<section class="run"><h3>{number}  {escape(str(run.folder))}</h3>{_facts(facts)}{_changes(run, defaults)}'
        f"<details><summary>Whole configuration</summary><pre>{escape(full)}</pre></details></section>"
    )


def _facts(facts: dict[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{html}</dd>' for name, html in facts.items())}</dl>" if facts else ""


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
    """List the keys that are not the defaults of the chosen algorithm, task, model and optimizer."""
    if defaults is None:
        return ""
    changes = {
        f"<code>{escape(key)}</code>": f"{escape(str(value))} "
        f'<span class="note">(default {escape(str(defaults[key]))})</span>'
        for key, value in run.config.items()
        if defaults.get(key, value) != value and key not in ("name", "threads") and not key.startswith("paper")
    }
    chosen = escape(", ".join(f"{group}={choice}" for group, choice in run.environment.choices.items()))
    return f"<p>{'Other than the defaults' if changes else 'The defaults'} of {chosen}</p>{_facts(changes)}"
