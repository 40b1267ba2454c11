"""A model from a run's folder, or from an exported one. Both are data: json, yaml and safetensors, and run no code."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta
from metalearn_cli.algorithms.capabilities import steps_at_test
from metalearn_cli.backbones.encoder import encoder_of
from metalearn_cli.backbones.feature_cache import encoded
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import ConfigSource, build, import_class
from metalearn_cli.config.task_for_net import build_task, embedding_of
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.pretrained import Pretrained
from metalearn_cli.run_folder import checkpoint, records
from metalearn_cli.run_folder.config_file import EXPORT, check_folder, check_parts, load_config
from metalearn_cli.run_folder.environment import TASK, read_choices, read_examples
from metalearn_cli.run_folder.proof import check_records, load_tested, unproved
from metalearn_cli.run_folder.runs import other_weights
from metalearn_cli.system.device import Precision, check_precision, resolve_device
from metalearn_cli.system.files import read_bytes
from metalearn_cli.system.limits import Natural
from metalearn_cli.system.typed_json import from_json, read_value
from metalearn_cli.tasks.example_format import Examples, examples_of, require_plausible, weights_of, with_ink
from metalearn_cli.tasks.resized import fitted
from metalearn_cli.trained.model import Model, Prepare
from metalearn_cli.trained.novelty import Threshold, Thresholds
from metalearn_cli.trained.run_scores import ScoredRun

FORMAT = 1
UNLIKE = "unlike.json"


class Stored(NamedTuple):
    """What a folder holds."""

    folder: Path
    config: Config  # algo, model, precision, device; of a run all of it
    examples: Examples
    tensors: Params  # params.*, buffers.*
    step: int  # of the checkpoint
    unlike: list[Threshold]  # of the flag, as they were measured
    notes: list[str]
    denormals_are_zero: bool  # in a command; `load_model` leaves the process as it is

    @property
    def is_run(self) -> bool:
        return "task" in self.config


def read_stored(folder: Path, trust: bool) -> Stored:
    """Read a folder. Raises UserError where it is neither a run nor an export, or not whole."""
    if (folder / EXPORT).is_file():
        return _read_export(folder)
    check_folder(folder)
    config = load_config(folder / "config.yaml")
    _check(folder / "config.yaml", config, ("algo", "task", "model"))
    tested, notes = load_tested(folder)
    if not (folder / "results.json").exists():
        notes.append(f"{folder} is not finished: its step {tested.step} of {config.get('steps')} is used")
    unlike = read_thresholds(folder)
    examples = examples_in(folder, config, trust)
    tensors = {name: value for name, value in tested.tensors.items() if name.startswith(("params.", "buffers."))}
    zero = read_choices(folder).denormals_are_zero
    return Stored(folder, config, examples, tensors, tested.step, unlike, notes, zero)


def examples_in(folder: Path, config: Config, trust: bool) -> Examples:
    """The description of a run's examples."""
    if (folder / TASK).exists():
        return read_examples(folder)
    examples = examples_of(build_task(config["task"], ConfigSource(trust=trust)))
    has_ink = examples.preparation is not None and examples.preparation.channels == 1
    return with_ink(examples, Ink.as_is) if has_ink else examples  # an earlier version left ink as it is


def _check(path: Path, config: Config, groups: tuple[str, ...]) -> None:
    check_parts(path, config, groups)
    if config.get("precision") not in Precision.__members__ or not isinstance(config.get("device"), str):
        raise UserError(f"{path} has no precision and device that are known: it is not whole, or of another version")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The content of an export's model.json."""

    format: int = FORMAT
    metalearn: str = ""
    step: Natural
    weights: str  # the name of their file
    sha256: str  # its hash
    config: Config  # algo, model, precision, device
    examples: Examples
    unlike: tuple[Threshold, ...]
    denormals_are_zero: bool = False


def _read_export(folder: Path) -> Stored:
    path = folder / EXPORT
    content = records.read_json(path)
    if (number := read_value(int, content.get("format"), path, "format")) > FORMAT:
        raise UserError(
            f"{path} is of format {number}, and this version reads up to {FORMAT}: install a newer metalearn"
        )
    exported = from_json(Exported, content, path)
    require_plausible(exported.examples, path)
    _check(path, exported.config, ("algo", "model"))
    if exported.examples.weights is not None:
        name = Path(exported.examples.weights.name).name  # in this folder
        if not name.endswith((".safetensors", ".onnx")):
            raise UserError(f"{path}: examples.weights.name is {name!r}, and a .safetensors or .onnx is expected")
        exported.config["model"]["name"] = str(folder / name)
    weights = folder / Path(exported.weights).name
    try:
        data = read_bytes(weights, checkpoint.MOST_BYTES)
        if hashlib.sha256(data).hexdigest() != exported.sha256:
            raise UserError(f"{weights} is damaged, its hash is not the one in {EXPORT}: export the run again")
        tensors = checkpoint.tensors_of(data)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{weights} cannot be read ({error}): export the run again") from error
    notes, unlike = [*check_records(folder), *unproved(folder, {})], list(exported.unlike)
    zero = exported.denormals_are_zero
    return Stored(folder, exported.config, exported.examples, tensors, exported.step, unlike, notes, zero)


def build_model(
    stored: Stored, batch_norm: BatchNorm, device: str, precision: Precision, test_steps: int | None, trust: bool
) -> Model:
    """Build the model in a folder. Raises UserError where its parts do not fit."""
    place = resolve_device(device)
    check_precision(precision, place)
    has_weights = import_class(stored.config["model"]["_target_"], "model", trust) is Pretrained
    if has_weights != (stored.examples.weights is not None):  # before a file that a stranger names is opened
        raise UserError(f"{stored.folder} does not tell whose weights its network has: it is not whole")
    source = ConfigSource(trust=trust, folder=stored.folder)
    net: Net = build(stored.config["model"], "model", Net, source, stored.examples.spec.restored)
    prepare = _prepare(stored, net)
    chosen = stored.config["algo"]
    if test_steps is not None:
        if "test_steps" not in chosen:
            raise UserError(f"algo.test_steps={test_steps}: the run's algorithm takes no inner steps")
        chosen = chosen | {"test_steps": test_steps}
    algo: Algorithm = build(chosen, "algo", Algorithm, source)
    algo.require_mode(batch_norm)
    dtype = torch.float64 if precision is Precision.fp64 else torch.float32
    expected = algo.init(net, torch.Generator()) if trust else _shapes(stored, algo, net)
    parts = []
    for word, part in (("params.", expected.params), ("buffers.", expected.buffers)):
        saved = {name.removeprefix(word): value for name, value in stored.tensors.items() if name.startswith(word)}
        odd = [f"{name} is in one only" for name in sorted(saved.keys() ^ part.keys())] or [
            f"{name} is {list(saved[name].shape)} and should be {list(value.shape)}"
            for name, value in part.items()
            if value.shape != saved[name].shape
        ]
        if odd:
            raise UserError(f"the weights in {stored.folder} are of another model than its configuration: {odd[0]}")
        parts.append({name: saved[name].to(place, dtype) for name in part})
    made_with = (batch_norm.name, steps_at_test(algo, net.spec), stored.step)
    fitting = [known for known in stored.unlike if (known.batch_norm, known.test_steps, known.step) == made_with]
    is_reduced = precision is Precision.bf16
    run = ScoredRun(stored.folder, stored.config, trust, net) if stored.is_run else None
    known = stored.examples, batch_norm, place, dtype, fitting, is_reduced
    return Model(algo, net, Meta(*parts), *known, run, prepare)


def _prepare(stored: Stored, net: Net) -> Prepare | None:
    """What makes examples of prepared pictures, where the model goes through a network with weights. Raises UserError
    where its weights are not those that the model was made with."""
    weights = stored.examples.weights
    if weights is None or not isinstance(net, Pretrained):
        return None
    if weights.sha256 != net.backbone.sha256:
        raise UserError(f"{stored.folder} {other_weights(weights, weights_of(net.backbone))}")
    if net.frozen:
        embedding = embedding_of(net)
        return partial(encoded, embedding, encoder_of(embedding.backbone, embedding.runtime))
    return partial(_in_size, stored.examples.spec.input_shape, net.backbone.resample)


def _in_size(input_shape: tuple[int, ...], resample: str, pictures: Tensor) -> Tensor:
    """[n, C, h, w] uint8 -> [n, *input_shape] in 0..1, as a training gathers them."""
    return fitted(pictures.unsqueeze(0) * (1 / 255), input_shape, resample).squeeze(0)


def _shapes(stored: Stored, algo: Algorithm, net: Net) -> Meta:
    """The names and shapes of what was learned, without memory for it: a width that is damaged may need any amount. A
    user's own classes may look at their numbers, and a network with weights is filled with those."""
    is_filled = isinstance(net, Pretrained) and not net.frozen
    try:
        with torch.device("cpu" if is_filled else "meta"):
            return algo.init(net, torch.Generator())
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # of a width that no tensor has
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the network in {stored.folder} cannot be made ({reason}): its configuration is not whole, or of another "
            "version"
        ) from error


def read_thresholds(run: Path) -> list[Threshold]:
    """Read the thresholds of the flag in the folder of a run."""
    path = run / UNLIKE
    return list(records.read_record(Thresholds, path).thresholds) if path.exists() else []


def load_model(
    folder: Path, batch_norm: str | None, device: str, precision: str | None, trust: bool, ink: str | None
) -> Model:
    """Build the model in a folder, for Python."""
    stored = read_stored(folder, trust)
    precision = precision or stored.config["precision"]
    chosen = ("batch_norm", batch_norm, BatchNorm), ("precision", precision, Precision), ("ink", ink, Ink)
    for key, value, options in chosen:
        if value is not None and value not in options.__members__:
            raise UserError(f"{key}={value!r} must be one of {', '.join(options.__members__)}")
    if precision == Precision.tf32.name:  # a setting of the whole process
        raise UserError("precision='tf32' is for commands: give precision='fp32', or set it in torch and give that")
    stored = stored._replace(examples=with_ink(stored.examples, None if ink is None else Ink[ink]))
    mode = BatchNorm[batch_norm or BatchNorm.inductive.name]
    return build_model(stored, mode, device, Precision[precision], None, trust)
