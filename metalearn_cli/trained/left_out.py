"""What a support set tells of itself: each example is judged by what the others teach.

Rows that are left out of a ridge regression together need no second solution. With P = (x'x + lambda)^-1, w = P x'y
and a group G of rows,

    out_G = y_G - (I - x_G P x_G')^-1 (y_G - x_G w)

(Allen's PRESS, Technometrics 16, 1974; for several rows Cook and Weisberg 1982, Residuals and influence).

Shapes: n examples, F features, W classes.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def copies(x: Tensor, label: Tensor, same: float) -> Tensor:
    """Number the examples of each class from 0 on, [n] int64: equal are those that are linked by cosines above `same`,
    as copies of one picture are. x [n, F] of length 1."""
    from scipy.sparse.csgraph import connected_components

    copy = torch.zeros_like(label)
    for members in (label == own for own in range(int(label.max()) + 1)):
        linked = (x[members] @ x[members].T > same).numpy()
        copy[members] = torch.from_numpy(connected_components(linked, directed=False)[1]).to(copy.dtype)
    return copy


def counted(label: Tensor, copy: Tensor) -> Tensor:
    """Which examples count, [n] bool: the first of its copies, where its class has another example."""
    first = torch.zeros_like(label, dtype=torch.bool)
    first[np.unique(_kind(label, copy), return_index=True)[1]] = True
    return first & _has_other(label, copy)


def fair_outputs(x: Tensor, label: Tensor, copy: Tensor, penalty: float) -> Tensor:
    """Outputs of ridge regression on x [n, F] for each example, solved without its copies and without one example of
    each other class, [n, W]: else its own class would be the only one that lacks some. The only example of a class
    stays."""
    folds = torch.where(_has_other(label, copy), copy, int(copy.max()) + 1 + label)
    return without(x, F.one_hot(label), folds, penalty)


def likeness(x: Tensor, label: Tensor, copy: Tensor) -> Tensor:
    """The cosine of each example with the mean of each class without its copies, [n, W]."""
    kind = torch.from_numpy(np.unique(_kind(label, copy), return_inverse=True)[1])
    of_kind = torch.zeros(int(kind.max()) + 1, x.shape[1], dtype=x.dtype).index_add(0, kind, x)
    of_class = F.one_hot(label).to(x.dtype).T @ x
    cosines = x @ F.normalize(of_class, dim=-1).T
    own = (x * F.normalize(of_class[label] - of_kind[kind], dim=-1)).sum(1, keepdim=True)
    return cosines.scatter(1, label[:, None], own)


def _kind(label: Tensor, copy: Tensor) -> Tensor:
    """A number for each set of copies, [n]."""
    return label * (int(copy.max()) + 1) + copy


def _has_other(label: Tensor, copy: Tensor) -> Tensor:
    """Whether there is an example in the class that is none of its copies, [n] bool."""
    most = torch.zeros(int(label.max()) + 1, dtype=copy.dtype).scatter_reduce(0, label, copy, "amax")
    return most[label] > 0


def without(x: Tensor, y: Tensor, group: Tensor, penalty: float) -> Tensor:
    """Outputs of ridge regression for each row of x [n, F], y [n, W], solved without the rows of its group [n]: [n, W]
    float64."""
    x, y = x.double(), y.double()
    if len(x) < x.shape[1]:  # as coordinates in the span of the rows, whose products are the same
        x = torch.linalg.qr(x.T, mode="r").R.T
    root: Tensor = torch.linalg.cholesky(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype))
    spread: Tensor = torch.linalg.solve_triangular(root, x.T, upper=False).T  # [n, F], so that x P x' = spread spread'
    missed: Tensor = y - spread @ (spread.T @ y)
    for rows in (torch.nonzero(group == number)[:, 0] for number in set(group.tolist())):
        own = spread[rows] @ spread[rows].T
        missed[rows] = torch.linalg.solve(torch.eye(len(rows), dtype=x.dtype) - own, missed[rows])
    return y - missed


def share_interval(right: int, number: int) -> tuple[float, float]:
    """Return Wilson's 95% interval (JASA 22, 1927) of a share of which `right` of `number` were seen."""
    from scipy.stats import binomtest

    low, high = binomtest(right, number).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def conformal_limit(scores: Tensor, promised: float) -> tuple[float, float]:
    """A limit by scores [n] of examples that were left out -> it, and the share of new ones that are above it at most,
    on average: `promised`, or 1 / (n + 1) where n is too small for that.

    A new example is as likely to be the largest, second largest, ... of all n + 1 (Vovk, Gammerman and Shafer,
    Algorithmic learning in a random world, 2005).
    """
    above = max(1, math.floor(promised * (len(scores) + 1)))
    return float(scores.sort(descending=True).values[above - 1]), above / (len(scores) + 1)
