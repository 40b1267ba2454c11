"""A trained learner that adapts to one new task at a time, of any number of classes and of examples in each.

Shapes: S support examples, Q query examples, W classes, d numbers of an example that is none of images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta, Predictor
from metalearn_cli.algorithms.capabilities import steps_at_test
from metalearn_cli.algorithms.inner_loop import final_of
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net
from metalearn_cli.nets.bfloat16 import Reduced
from metalearn_cli.nets.capabilities import as_module
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Support
from metalearn_cli.tasks.example_format import Examples
from metalearn_cli.tasks.likelihood import Density, merged
from metalearn_cli.trained import python_inputs
from metalearn_cli.trained.learned import for_way, learned_network
from metalearn_cli.trained.novelty import Threshold, nearest_threshold, probabilities, unlikeness
from metalearn_cli.trained.python_inputs import Given, Label, Picture, classes_of, labels_of, pictures, scaled, unscaled
from metalearn_cli.trained.run_scores import Episode, InnerCurve, ScoredRun

Prepare = Callable[[Tensor], Tensor]  # prepared pictures [n, C, h, w] uint8 -> examples [n, *input]
AT_ONCE = 256  # queries that go through together, where a prediction does not depend on its neighbours


@dataclass(frozen=True, eq=False)
class Model:
    """What `metalearn_cli.load` returns."""

    algo: Algorithm
    net: Net  # of the trained way
    meta: Meta
    examples: Examples
    batch_norm: BatchNorm
    device: torch.device
    dtype: torch.dtype
    thresholds: list[Threshold]  # beyond which a query is unlike every class
    reduced: bool = False  # products in bfloat16
    run: ScoredRun | None = None  # None: an export, which has neither data nor scores
    prepare: Prepare | None = None  # what a network with weights gets of pictures, or the features that it makes

    def adapt(self, x: Given, y: Given, unlabelled: Given = None) -> "AdaptedModel":
        """Adapt to the support set of a task -> what predicts for it.

        x: files or PIL images, which are prepared as `metalearn predict` does it; or [S, C, H, W] in 0..1 as `read`
        makes it; or [S, d] in the units of the training table. y [S]: labels of one kind, or [S] or [S, targets]
        values. Tensors, arrays or lists. unlabelled: examples without labels, as x, for an algorithm that uses them.
        """
        if unlabelled is not None and not self.algo.needs_unlabelled:
            raise UserError("the run's algorithm does not use examples without labels: leave `unlabelled` out")
        x = self.inputs(x)
        if self.examples.spec.kind == "values":
            classes: list[Label] = []
            targets = self._values(y, len(x))
        else:
            classes, targets = self._labels(y, len(x))
        order = torch.randperm(len(x), generator=generator("support", len(x)))  # an order may matter, a class's never
        key = torch.zeros(1, dtype=torch.int64, device=self.device)
        support = Support(x[order].unsqueeze(0), targets[order.to(self.device)].unsqueeze(0), key)
        if unlabelled is not None:
            support = support._replace(unlabelled=self.inputs(unlabelled).unsqueeze(0))
        predict, note = self.predictor(support, len(classes) or self.net.spec.outputs)
        fewest = int(targets.bincount().min()) if classes else 0
        known = [*self.thresholds] if classes else []
        threshold = nearest_threshold(known, len(classes), fewest, self.algo.is_metric)
        warm = threshold or nearest_threshold(known, len(classes), fewest, any_way=True)
        return AdaptedModel(self, predict, classes, threshold, (warm and warm.temperature) or 1.0, note)

    def embed(self, x: Given) -> Tensor:
        """x [n, ...] as for `adapt` -> the network's features [n, F] on the CPU, before it adapts to a task. Batch norm
        takes its running averages, so that each example's are its own. Raises UserError where no network is learned."""
        (net, params, stats), x = learned_network(self.algo, self.net, self.meta), self.numbers(x)
        net = Reduced(net.spec, net) if self.reduced else net
        with torch.no_grad():
            parts = (net.features(params, part, Call(stats=stats))[0] for part in self.pieces(x, AT_ONCE))
            return torch.cat([features[0].cpu() for features in parts])

    def state_dict(self) -> dict[str, Tensor]:
        """All that was learned, and the running statistics: copies on the CPU, by the names in a checkpoint without
        `params.` and `buffers.`. A file of them by safetensors.torch.save_file is a run's `init`."""
        return {name: value.to("cpu", copy=True) for part in self.meta for name, value in part.items()}

    def module(self) -> nn.Module:
        """The network before it adapts to a task, as a torch.nn.Module of its own, in eval().

        x [B, *input], as `inputs` makes it: for pictures what `read` does, but of a frozen network with weights the
        features that `embed` does -> outputs [B, outputs]; features [B, F] where no
        head is learned, as with algo=protonet. In eval() batch norm takes its running averages, as batch_norm=running
        does; in train() the batch's, and learns. Its state_dict has the names of this class's. A network of one's own
        is an object of its own class, with the names of that. torch.export, torch.onnx and copy.deepcopy take it.
        """
        return as_module(*learned_network(self.algo, self.net, self.meta)).eval()

    def episodes(self, split: str = "test") -> Iterator[Episode]:
        """The very episodes that the run's test has scored, in their order, or with "val" each validation; as `adapt`
        takes them. Under the run's mode of batch norm, `load(run, batch_norm=...)`, their scores are those of
        results.json, but for algorithms that draw for each task, which draw otherwise here."""
        return self.scored_run().episodes(split, self.examples.columns)

    def inner_curve(self) -> InnerCurve:
        """What the run's test scored after each inner step."""
        return self.scored_run().inner_curve()

    def scored_run(self) -> ScoredRun:
        """The folder that this is of. Raises UserError for an export."""
        if self.run is None:
            raise UserError("an export holds neither the data nor the scores of its run: load the run's own folder")
        return self.run

    def pieces(self, x: Tensor, size: int) -> Iterator[Tensor]:
        """Examples [n, ...] of `numbers` -> as the network takes them, `size` together, [1, size, *input]."""
        return (self.inputs(x[start : start + size]).unsqueeze(0) for start in range(0, len(x), size))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.examples.spec.input_shape))
        return f"<{type(self.algo).__name__} with {type(self.net).__name__} on examples of {shape}, {self.device}>"

    def read(self, pictures: Picture | Sequence[Picture]) -> Tensor:
        """Read files or PIL images as examples, [n, C, H, W] in 0..1. Raises UserError for broken ones.

        A PIL image that was opened from a file, and is not decoded yet, is read as the file is: of a large JPEG no more
        than is needed is decoded. One that is decoded already is taken as it is.
        """
        return self.read_bytes([pictures] if isinstance(pictures, Picture) else pictures) * (1 / 255)

    def read_bytes(self, pictures: Sequence[Picture]) -> Tensor:
        """Read files or PIL images, as `read` takes them, as pixels, [n, C, H, W] uint8."""
        preparation = self.examples.preparation
        if preparation is None:
            raise UserError(
                "the task of this run does not tell how a picture becomes an example: its class has no `preparation`"
            )
        return python_inputs.read_pictures(pictures, preparation)

    def predictor(self, support: Support, outputs: int) -> tuple[Predictor, str]:
        """Adapt to support sets of so many classes or values -> what predicts, and what was done to the model, in a
        sentence."""
        net, meta, note = for_way(self.algo, self.net, self.meta, outputs)
        net = Reduced(net.spec, net) if self.reduced else net
        with torch.no_grad():
            return final_of(self.algo.adapt(net, meta, support, steps_at_test(self.algo, net.spec))), note

    def outside(self, x: Given) -> Tensor:
        """x [n, d] as for `adapt` -> which lie outside of the range of the training tasks' inputs, [n] bool."""
        columns = self.examples.columns
        if columns is None or columns.x_range is None:
            raise UserError("nothing is known of the range of the inputs that this run was trained on")
        low, high = (torch.tensor(end, dtype=torch.float64) for end in (columns.x_range.low, columns.x_range.high))
        values = self._checked(x).double()
        return ((values < low) | (values > high)).any(1)

    def numbers(self, x: Given) -> Tensor:
        """Examples of any kind that `adapt` takes as numbers, [n, ...]."""
        shape = self.examples.spec.input_shape
        is_of_images = self.examples.columns is None and (len(shape) == 3 or self.prepare is not None)
        files = pictures(x) if is_of_images else None
        values = python_inputs.numbers(x) if files is None else self.read_bytes(files)
        if values.dim() == 0 or len(values) == 0:
            raise UserError("x is empty: give a list of one example at least")
        if self.prepare is None or self.examples.preparation is None or values.shape[1:] == shape:
            return values
        pixels = python_inputs.pixels_of(python_inputs.of_shape("x", values, self.examples.preparation.shape))
        return self.prepare(pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8))

    def inputs(self, x: Given) -> Tensor:
        """Return examples as the network takes them, [n, *input] on the device."""
        columns = self.examples.columns
        return scaled(self._checked(x), columns.x_scale if columns else None).to(self.device, self.dtype)

    def _checked(self, x: Given) -> Tensor:
        """[n, *input] in the units in which it was given, pixels in 0..1."""
        shape = self.examples.spec.input_shape
        values = python_inputs.of_shape("x", self.numbers(x), shape)
        if len(shape) < 3:
            return values
        values = python_inputs.pixels_of(values)
        return values * (1 / 255) if values.dtype == torch.uint8 else values

    def _values(self, y: Given, number: int) -> Tensor:
        """[S, targets] on the device."""
        columns = self.examples.columns
        y = python_inputs.of_shape("y", python_inputs.numbers(y), (self.net.spec.targets,), number)
        return scaled(y, columns.y_scale if columns else None).to(self.device, self.dtype)

    def _labels(self, y: Given, number: int) -> tuple[list[Label], Tensor]:
        """The classes, and the place of each example's among them [S]."""
        labels = labels_of(y, number)
        classes = list(self.examples.columns.labels) if self.examples.columns else []  # all tasks share them
        if classes:
            labels = [str(label) for label in labels]
            if unknown := [label for label in labels if label not in classes]:
                raise UserError(
                    f"y has the label {unknown[0]}, and the training had {', '.join(classes)}: take one of them"
                )
        classes = classes or classes_of(labels)
        return classes, torch.tensor([classes.index(label) for label in labels], device=self.device)


@dataclass(frozen=True, eq=False)
class AdaptedModel:
    """What predicts for the task that a model was adapted to."""

    model: Model
    predict: Predictor
    classes: list[Label]  # the labels in the order of the outputs; none for values
    threshold: Threshold | None
    temperature: float  # of the probabilities: the threshold's, or that of tasks of the most similar way; 1: not known
    note: str  # what the user should know of the adaptation

    def __repr__(self) -> str:
        return f"<{self.model!r} adapted to {self.classes or 'values'}>"

    def __call__(self, x: Given) -> Tensor:
        """x [Q, ...] as for `adapt` -> the probability of each class [Q, W], or values [Q, targets] in y's units."""
        out = self.outputs(x)
        return probabilities(out, self.temperature) if self.classes else self.values(out)[0]

    def values(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's outputs [Q, outputs] -> the values that they stand for, and their deviations if it tells them,
        [Q, targets] in the units of y."""
        columns, (values, deviation) = self.model.examples.columns, self.model.net.spec.likelihood.moments(out)
        scale = columns.y_scale if columns else None
        if deviation is not None and scale is not None:
            deviation = deviation.double() * torch.tensor(scale.deviation, dtype=torch.float64)
        return unscaled(values, scale), deviation

    def interval(self, out: Tensor, share: float = 0.9) -> tuple[Tensor, Tensor] | None:
        """The network's outputs [Q, outputs] -> the ends of the central interval that holds this share of the
        probability, [Q, targets] in the units of y; None where the network tells values alone."""
        columns, likelihood = self.model.examples.columns, self.model.net.spec.likelihood
        if not isinstance(likelihood, Density):
            return None
        out, shape = out.double().unsqueeze(0), (1, len(out), self.model.net.spec.targets)
        low, high = (likelihood.quantile(out, out.new_full(shape, 0.5 + side * share / 2))[0] for side in (-1, 1))
        scale = columns.y_scale if columns else None
        return unscaled(low, scale), unscaled(high, scale)

    def outputs(self, x: Given) -> Tensor:
        """x [Q, ...] -> the network's own outputs, logits or values, [Q, W] or [Q, outputs] on the CPU. Raises
        UserError where they are not numbers."""
        mode, x = self.model.batch_norm, self.model.numbers(x)
        size = len(x) if mode is BatchNorm.transductive else AT_ONCE
        likelihood = self.model.net.spec.likelihood
        with torch.no_grad():
            parts = [merged(likelihood, self.predict(part, mode)) for part in self.model.pieces(x, size)]
            out = torch.cat([part[0].cpu() for part in parts])
        if wrong := int(out.isnan().any(1).sum()):
            raise UserError(
                f"the model makes no numbers of {wrong} of {len(out)} queries: what it has learned, or a setting of "
                "it, is not finite or too large"
            )
        return out

    def unlike(self, x: Given) -> Tensor:
        """x [Q, ...] -> which look unlike every class, [Q] bool."""
        if self.threshold is None:
            raise UserError(
                "nothing is known of when a query is unlike every class of such a support: `metalearn predict` of the "
                "run, with as many classes and examples, measures it once and keeps it, as does `metalearn export`"
            )
        return unlikeness(self.outputs(x)) > self.threshold.value
