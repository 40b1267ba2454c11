"""`metalearn export`: a run as a folder of two files, which needs neither the run nor its data.

model.json has the configuration, the preparation of pictures (or the columns of a table) and the thresholds of the flag
`unlike`; the weights are safetensors, whose hash stands in model.json. A third file has the network with weights that
the run goes through, so that its package, or its file, is not needed either.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from omegaconf import OmegaConf

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.backbones.onnx_file import whole
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import checked_fields
from metalearn_cli.nets.capabilities import backbone_of
from metalearn_cli.run_folder.config_file import EXPORT
from metalearn_cli.run_folder.records import sealed
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.console import show, tell_each
from metalearn_cli.system.device import Precision, set_process
from metalearn_cli.system.files import sync_folder, write_durably
from metalearn_cli.system.limits import Device, Threads
from metalearn_cli.system.typed_json import to_json
from metalearn_cli.trained import novelty_threshold
from metalearn_cli.trained.loading import Exported, Stored, build_model, read_stored
from metalearn_cli.trained.novelty import Threshold
from metalearn_cli.version import __version__

# Of the tasks for which the flag is calibrated, besides the run's own.
WAYS, SHOTS = (2, 3, 5, 10), (1, 5)


@dataclass(frozen=True)
class Export:
    """The keys of the command."""

    run: str
    out: str
    device: Device | None = None  # on which the flag is calibrated; None: the run's
    threads: Threads | None = None
    trust: bool = False


def export(values: Config) -> None:
    """Export as these keys of the command line say, which are of the right types."""
    keys = Export(**checked_fields(Export, OmegaConf.create(values), ""))
    stored = read_stored(Path(keys.run), keys.trust)
    tell_each(stored.notes)
    thresholds = _thresholds(stored, keys) if stored.is_run else stored.unlike
    weights = safetensors.torch.save({name: stored.tensors[name] for name in sorted(stored.tensors)})
    digest = hashlib.sha256(weights).hexdigest()
    files = {f"weights-{digest[:16]}.safetensors": weights}
    model, examples = stored.config["model"], stored.examples
    if (used := examples.weights) is not None:
        content, suffix = _network(stored, keys.trust)
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"network-{sha256[:16]}{suffix}"
        files[name] = content
        examples = examples._replace(weights=used._replace(name=name, sha256=sha256))
        architecture = used.name if used.name.startswith("timm:") else model["architecture"]
        model = {**model, "name": name, "architecture": architecture}
    exported = Exported(
        metalearn=__version__,
        step=stored.step,
        weights=next(iter(files)),
        sha256=digest,
        config={key: stored.config[key] for key in ("algo", "precision")} | {"model": model, "device": "auto"},
        examples=examples,
        unlike=tuple(thresholds),
        denormals_are_zero=stored.denormals_are_zero,
    )
    _write(Path(keys.out), exported, files)
    show(f"the model is in {keys.out}")


def _thresholds(stored: Stored, keys: Export) -> list[Threshold]:
    """The thresholds of the usual tasks that the validation classes can give."""
    precision, spec = Precision[stored.config["precision"]], stored.examples.spec
    set_process(precision, keys.threads, Allocator.tuned, denormals_are_zero=stored.denormals_are_zero)
    device = keys.device or stored.config["device"]
    model = build_model(stored, BatchNorm.inductive, device, precision, None, keys.trust)
    thresholds = {(known.way, known.shot): known for known in model.thresholds}  # those that `predict` has measured
    lacking: dict[str, str] = {}  # each reason once, with the first tasks that it holds of
    shots = {*SHOTS, stored.config["task"].get("shot", 1)}
    usual = {(way, shot) for way in (*WAYS, spec.outputs) for shot in shots} if spec.kind == "classes" else set()
    for way, shot in sorted(usual | thresholds.keys()):
        threshold, sentence = novelty_threshold.threshold_for(stored, model, way, shot, keys.trust)
        if threshold is None:
            lacking.setdefault(sentence, f"{way}-way {shot}-shot")
        else:
            thresholds[threshold.way, threshold.shot] = threshold
    tell_each(f"{tasks} tasks: {sentence}" for sentence, tasks in lacking.items())
    tell_each(f"flag `unlike`: calibrated for {way}-way {shot}-shot tasks" for way, shot in thresholds)
    return list(thresholds.values())


def _network(stored: Stored, trust: bool) -> tuple[bytes, str]:
    """The network with weights that a run goes through, as the content of a file, and the end of its name. Raises
    UserError for an ONNX file that has its weights in other files."""
    precision = Precision[stored.config["precision"]]
    backbone = backbone_of(build_model(stored, BatchNorm.inductive, "cpu", precision, None, trust).net)
    assert backbone is not None  # build_model has seen to it
    if isinstance(backbone.make, Path):
        return whole(backbone.make), ".onnx"
    tensors = backbone.make().state_dict()
    return safetensors.torch.save({name: tensors[name].contiguous() for name in sorted(tensors)}), ".safetensors"


def _write(out: Path, exported: Exported, files: dict[str, bytes]) -> None:
    """Write the folder whole, or not at all."""
    temporary = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir()
        for name, content in files.items():
            write_durably(temporary / name, content)
        record = json.dumps(sealed(to_json(exported)), indent=1, allow_nan=False)
        write_durably(temporary / EXPORT, f"{record}\n".encode())
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(out.absolute().parent)
