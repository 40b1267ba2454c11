"""The results of a test as a table on the screen."""

from pathlib import Path

from metalearn_cli.learning.leakage import in_words
from metalearn_cli.learning.scores import in_unit, steps_to_show, text_of, with_interval, with_labels, with_names
from metalearn_cli.run_folder.results import Results, shortfall
from metalearn_cli.system.console import show, tell
from metalearn_cli.system.text import printable


def print_results(folder: Path, results: Results, expect: str | None) -> int:
    """Print the inner steps, the other batch-norm modes, the paper's figure and the folder -> the exit code: 3 where
    the test falls short of `expect`."""
    metric = results.metric
    mode = f", batch norm {results.batch_norm}" if results.batch_norm else ""
    mode += ", transductive head" * results.transductive_head
    lines = [f"test {in_unit(metric)} over {results.episodes} episodes{mode}"]
    per_step = results.per_step
    adapts = len(per_step) > 1 or per_step[0].diverged > 0  # what takes no inner steps does not diverge by them
    lines.append(f"{'inner steps  ' * adapts}{'mean':>9}  {'+- 95%':>8}  {'median':>9}{'  diverged' * adapts}")
    for row in (per_step[step] for step in steps_to_show(len(per_step) - 1)):  # results.json has them all
        mean, ci95, median = (text_of(value, metric) for value in (row.mean, row.ci95, row.median))
        step, diverged = (f"{row.step:>11}  ", f"  {row.diverged:>8.2%}") if adapts else ("", "")
        lines.append(f"{step}{mean:>9}  {ci95:>8}  {median:>9}{diverged}")
    for other, summary in results.other_batch_norm.items():
        shown = with_interval(summary.mean, summary.ci95, metric)
        lines.append(f"with batch norm {other}{', after the last step' * adapts}: {shown}")
    if results.beside:
        lines.append(f"beside{', after the last step' * adapts}: {with_names(results.beside)}")
    if results.baselines:
        lines.append(with_labels(results.baselines, metric, results.baseline_episodes))
    if results.leakage is not None:
        lines.append(in_words(results.leakage))
    if results.learned:
        lines.append("learned: " + ", ".join(f"{name} {value:.4g}" for name, value in results.learned.items()))
    if (paper := results.published) is not None:
        step = f" after {paper.step} inner step(s)" if paper.step is not None else ""
        lines.append(f"published{step}: {with_interval(paper.mean, paper.ci95, metric)} ({paper.source})")
    lines.append(f"results are in {folder}")
    show("\n".join(map(printable, lines)))
    if (short := shortfall(expect, results)) is None:
        return 0
    tell(f"metalearn: {short}")
    return 3
