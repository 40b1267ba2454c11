"""The simple regrets of Bayesian optimisation as a table on the screen, a JSON file and a picture."""

import json
from html import escape
from pathlib import Path

from metalearn_cli.learning.scores import figures, steps_to_show
from metalearn_cli.report.charts import BELOW, BOTTOM, WIDTH, Line, line_chart
from metalearn_cli.report.figures import is_wide
from metalearn_cli.system.console import show
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.text_table import aligned
from metalearn_cli.system.typed_json import to_json
from metalearn_cli.trained.optimise import Regrets

WORDS = {"random": "random search", "gp": "Gaussian process fitted to each function", "oracle": "exact posterior"}
ROW = 16  # of the legend

Curves = dict[str, list[tuple[float | None, float | None]]]  # the mean and its 95% interval after each step


def show_regrets(regrets: Regrets, out: Path) -> None:
    """Print the table, and write `out`, a JSON file, and beside it the picture."""
    keys = regrets.keys
    curves: Curves = {
        name: [figures(column)[:2] for column in values.double().cpu().T] for name, values in regrets.of.items()
    }
    rows = [["queries", *(f"{name}  +- 95%" for name in curves)]]
    for step in steps_to_show(keys.steps):
        cells = [curve[step] for curve in curves.values()]
        rows.append([str(step), *(f"{mean or 0:.4f}  {ci95 or 0:.4f}" for mean, ci95 in cells)])
    show(f"simple regret of {keys.acquisition.name} over {keys.functions} functions, after a random start")
    show("\n".join(aligned(rows, "r" * len(rows[0]))))
    columns = {
        name: {key: [row[i] for row in curve] for i, key in enumerate(("mean", "ci95"))}
        for name, curve in curves.items()
    }
    content = {"keys": to_json(keys), "checkpoint": regrets.step, "simple_regret": columns}
    write_durably(out, (json.dumps(content, indent=1) + "\n").encode())
    write_durably(out.with_suffix(".svg"), picture(curves, keys.acquisition.name).encode())
    show(f"results are in {out} and {out.with_suffix('.svg')}")


def picture(curves: Curves, acquisition: str) -> str:
    """Draw the curves with bands of their 95% intervals and a legend, as an SVG that stands by itself."""
    lines, legend = [], []
    words = {"model": f"the run's model, by {acquisition}", **WORDS}
    for number, (name, curve) in enumerate(curves.items()):
        points = [(float(step), mean or 0.0) for step, (mean, _) in enumerate(curve)]
        upper, lower = (
            [(step, mean + sign * (ci95 or 0.0)) for (step, mean), (_, ci95) in zip(points, curve, strict=True)]
            for sign in (1, -1)
        )
        lines.append(Line(number, points, str(number + 1), upper + lower[::-1]))
        place = BOTTOM + BELOW + ROW * (number + 1) - 4
        legend.append(f'<text x="16" y="{place}" class="end s{number}">{number + 1}</text>')
        legend.append(f'<text x="32" y="{place}">{escape(words[name])}</text>')
    title = f"Simple regret of {acquisition}, mean over functions with its 95% interval"
    chart = line_chart(lines, title, ("queries", "simple regret"), is_wide(lines))
    chart = chart.replace("<svg ", f'<svg width="{WIDTH}" height="{BOTTOM + BELOW}" ', 1)
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    height = BOTTOM + BELOW + ROW * len(curves) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{escape(style)}</style>'
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>{chart}{"".join(legend)}</svg>\n'
    )
