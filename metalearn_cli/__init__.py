"""metalearn: a command-line experiment runner for few-shot and meta-learning in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metalearn_cli.version import __version__

if TYPE_CHECKING:
    from metalearn_cli.trained.model import Model

__all__ = ["__version__", "load"]


def load(
    folder: str | Path,
    *,
    batch_norm: str | None = "inductive",
    device: str = "cpu",
    precision: str | None = None,
    trust: bool = False,
    ink: str | None = None,
) -> Model:
    """The learner of a run's folder, or of one that `metalearn export` made.

        predict = load("my-model").adapt(x, y)  # x: S files or PIL images, [S, C, H, W] or [S, d]; y [S] of one task
        predict(q)  # [Q, classes] probabilities, in the order of predict.classes; or [Q, outputs] values

    `batch_norm` None, as results.json may have it: the network has none. `precision`, `ink` None: the run's. ink
    "evened" makes paper white and ink black, whatever the light; "as_is" does not. Classes from outside of metalearn
    are imported, and weights from outside of the folder opened, with `trust` only. Raises UserError.
    """
    from metalearn_cli.trained.loading import load_model  # torch is imported here, and not with this package

    return load_model(Path(folder), batch_norm, device, precision, trust, ink)
