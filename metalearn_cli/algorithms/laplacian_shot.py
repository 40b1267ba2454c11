"""LaplacianShot: queries that lie near one another get the same class.

Imtiaz Masud Ziko, Jose Dolz, Eric Granger, Ismail Ben Ayed: "Laplacian Regularized Few-Shot Learning", ICML 2020, arXiv
2006.15486.

    y_q <- softmax_k( -||f(x_q) - c_k||^2 + lambda sum of y_p[k] over the nearest neighbours p of q )

a fixed number of times, from lambda = 0 (section 2: bound optimisation of sum_q y_q . ||f(x_q) - c||^2 + lambda / 2
sum_qp w_qp ||y_q - y_p||^2, w_qp = 1 for neighbours). Features are SimpleShot's: divided by their length (`normalise`),
perhaps without the mean of the training classes (`centre`). `rectify` moves all queries by the difference of the two
sets' means, and makes c_k the mean of softmax_k(10 cos(f(x), c))[k] f(x) over the examples of both sets that are
nearest to c_k. Without it lambda = 0 is algo=protonet.

The paper trains f by algo=pretrain, and starts this one from that run with steps=0, with lambda chosen on validation
tasks. Steps train f as algo=protonet does. All queries of a task are predicted together: a query with few neighbours
of its class is pulled to those of another, and `rectify` takes the two sets for equally mixed.

Differs from the paper in: examples that are equally near are neighbours all, and a class that no example is nearest to
keeps its mean. As in the authors' code a query has 3 neighbours with itself, hence 2 here.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.embedding import mask_of_both
from metalearn_cli.algorithms.features import Centre, Normalise, squared_distance
from metalearn_cli.algorithms.losses import mean_of_real, without_absent_classes
from metalearn_cli.algorithms.protonet import OnProtoNet, ProtoNet, prototypes
from metalearn_cli.system.limits import Count, Natural, NonNegative
from metalearn_cli.tasks.base import Support


@dataclass(frozen=True)
class LaplacianShot(OnProtoNet):
    smoothness: NonNegative = 0.7  # lambda
    neighbours: Count = 2  # of each query
    iterations: Natural = 20
    rectify: bool = True
    normalise: Normalise = Normalise.l2
    centre: Centre = Centre.none

    algo = "laplacian_shot"

    @cached_property
    def protonet(self) -> ProtoNet:
        return ProtoNet(normalise=self.normalise, centre=self.centre)

    def joint_logits(self, support: Support, way: int, query: Tensor, mask: Tensor | None) -> Tensor:
        features = support.x
        means = prototypes(features, support, way)
        if self.rectify:
            query = query + (mean_of_real(features, support.mask) - mean_of_real(query, mask)).unsqueeze(1)
            means = rectified(means, support, features, query, mask)
        alone = without_absent_classes(-squared_distance(query, means), support.way)
        is_near, out = nearest(query, self.neighbours, mask).to(query.dtype), alone
        for _ in range(self.iterations):
            out = alone + self.smoothness * (is_near @ out.softmax(-1))
        return out


def nearest(x: Tensor, number: int, mask: Tensor | None) -> Tensor:
    """Whether p is one of so many nearest neighbours of q, [T, Q, Q] bool for q, p: x [T, Q, F], mask [T, Q]. None is
    its own, and those that are not real are nobody's."""
    cannot_be = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    if mask is not None:
        cannot_be = cannot_be | ~mask.unsqueeze(1)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").masked_fill(cannot_be, torch.inf)
    limit = distance.topk(min(number, x.shape[1]), largest=False).values[..., -1:]
    return (distance <= limit) & ~cannot_be


def rectified(means: Tensor, support: Support, features: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
    """Prototypes of the examples of both sets that are nearest to each of means [T, way, F], by their angle."""
    way = means.shape[1]
    examples = torch.cat([features, query], 1)
    cosine = F.normalize(examples, dim=-1) @ F.normalize(means, dim=-1).mT
    cosine = without_absent_classes(10 * cosine, support.way)
    is_nearest = F.one_hot(cosine.argmax(-1), way).to(means.dtype)
    if (real := mask_of_both(support, query, mask)) is not None:
        is_nearest = is_nearest * real.unsqueeze(-1)
    number = is_nearest.sum(1).unsqueeze(-1)
    return torch.where(number > 0, (is_nearest * cosine.softmax(-1)).mT @ examples / number.clamp(min=1), means)
