"""Run folders as a run leaves them, of values that a test chooses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from metalearn_cli.learning.scores import summarise


def write_run(
    folder: Path,
    values: Any,
    seed: int = 0,
    metric: str = "accuracy",
    config: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    sha256: str = "a" * 64,
    batch_norm: str | None = None,
    modes: dict[str, Any] | None = None,
    validation: float = 0.5,
) -> Path:
    """`values` [E] are those after the last of two inner steps; `modes` has those of other batch-norm modes."""
    last = np.asarray(values, dtype=np.float64)
    folder.mkdir(parents=True)
    flat = {"seed": seed, "name": folder.name, "algo.inner_lr": 0.1, "task.shot": 5, "episodes_seed": 0, "steps": 20}
    flat["log_every"] = 10
    node = OmegaConf.create({})
    for key, value in {**flat, **(config or {})}.items():
        OmegaConf.update(node, key, value)
    OmegaConf.save(node, folder / "config.yaml")
    on_command_line = {"seed": seed, **(overrides or {})}
    (folder / "overrides.txt").write_text("".join(f"{key}={value}\n" for key, value in on_command_line.items()))
    (folder / "environment.json").write_text(json.dumps({"choices": {"algo": "maml", "task": "sinusoid"}}))
    curve = np.stack([last / 2, last], 1)
    loss = np.where(np.isfinite(curve), 0.0, np.inf)
    first, after = (summarise(*map(torch.from_numpy, both)) for both in zip(curve.T, np.isinf(loss).T, strict=True))
    others = {f"metric_{mode}": np.asarray(row) for mode, row in (modes or {}).items()}
    np.savez(folder / "episodes.npz", metric=curve, loss=loss, **others)
    results = {
        **{"split": "test", "episodes": len(last), "episodes_sha256": sha256, "metric": metric, "seed": seed},
        **{"mean": after.mean, "ci95": after.ci95, "median": after.median, "batch_norm": batch_norm},
        **{"per_step": [{"step": 0, **first._asdict()}, {"step": 1, **after._asdict()}]},
        **{"algo": "maml", "task": "sinusoid", "step": 20, "steps": 20, "other_batch_norm": {}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    write_lines(folder / "timing.jsonl", [{"step": step, "steps_per_second": 10.0} for step in (10, 20)])
    losses = [{"step": step, "train/loss": 1.0, "train/lr": 0.1} for step in (10, 20)]
    write_lines(folder / "metrics.jsonl", [losses[0], {"step": 10, f"val/{metric}": float(validation)}, losses[1]])
    return folder


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def rewrite(path: Path, content: dict[str, Any]) -> None:
    """A record that somebody has changed on purpose."""
    path.write_text(json.dumps({**content, "edited": True}))
