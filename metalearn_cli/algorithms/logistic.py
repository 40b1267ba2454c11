"""Logistic regression on the features, to convergence.

Yonglong Tian, Yue Wang, Dilip Krishnan, Joshua Tenenbaum, Phillip Isola: "Rethinking Few-Shot Image Classification: a
Good Embedding Is All You Need?", ECCV 2020, arXiv 2003.11539.

    W, b = argmin  sum_i -log softmax(W f(x_i) + b)[y_i] + lambda / 2 ||W||^2,     p(y | x) = softmax( W f(x) + b )

(section 3.2; f(x) divided by its length) over the support set, of which each image comes in `copies` changed copies at
validation and test. RFS (the paper) trains f by algo=pretrain, and starts this one from that run with steps=0. Steps
train f by episodes, through the minimum: a relative of LR-D2 (Bertinetto et al. 2019, arXiv 1805.08136), which
stops after a few steps and regresses each class against all others.

Differs from the paper in: lambda is 1 / C of scikit-learn's LogisticRegression, which the authors' code calls, and
Newton's method finds the minimum. Copies are moved by up to an eighth of the image, with mirrored edges.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embedding_update, init_body
from metalearn_cli.algorithms.features import Normalise, members, prepared
from metalearn_cli.algorithms.solvers import logistic, with_ones
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net
from metalearn_cli.system.limits import Natural, Positive
from metalearn_cli.tasks.augment import Augment, changed_copies
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class Logistic(Algorithm):
    penalty: Positive = 1.0  # lambda
    normalise: Normalise = Normalise.l2
    copies: Natural = 0  # of each support image at validation and test, in its place; 0: the image itself
    augment: tuple[Augment, ...] = (Augment.crop, Augment.flip)  # what changes the copies

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        if self.copies and len(net.spec.input_shape) != 3:
            raise UserError(f"algo.copies={self.copies} changes images, and this task has none: give algo.copies=0")
        if self.copies and not self.augment:
            raise UserError(
                f"algo.copies={self.copies} are equal with algo.augment=[]: give e.g. algo.augment=[crop,flip]"
            )
        return Meta(init_body("logistic", net, rng), net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        if self.copies:
            support = changed_copies(support, self.copies, self.augment)
        scorer = partial(self.logits, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return embedding_update(net, meta, batch, partial(self.logits, batch.support, net.spec.train_outputs))

    def logits(self, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, way] for the features of the support [T, S, F] and of the query [T, Q, F]."""
        features, query = prepared(features, self.normalise), prepared(query, self.normalise)
        if support.mask is not None:
            features = features.where(support.mask.unsqueeze(-1), 0)
        return with_ones(query) @ logistic(features, members(support, way), self.penalty).to(query.dtype)
