"""Gaussian process regression by scikit-learn, fitted to each function by itself: what Bayesian optimisation uses where
nothing was learned before.

Shapes: F functions, N known points, P points anywhere.
"""

import warnings

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Support
from metalearn_cli.tasks.likelihood import EXACT, Likelihood


def gp_outputs(support: Support, x: Tensor) -> tuple[Likelihood, Tensor]:
    """The normal distribution of a value with its noise at each x [F, P, 1], by a Matern-5/2 kernel and noise whose
    scale, length and deviation have the largest marginal likelihood of the standardised values."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    except ImportError as error:
        raise UserError("against=[gp] needs scikit-learn: pip install 'metalearn-cli[optimise]'") from error
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(1.0, (1e-2, 1e1), nu=2.5) + WhiteKernel(1e-2, (1e-6, 1.0))
    known_x, known_y, points = (part.double().cpu().numpy() for part in (support.x, support.y, x))
    outs = []
    for task in range(len(points)):
        regressor = GaussianProcessRegressor(kernel, normalize_y=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound, as of one point
            mean, deviation = regressor.fit(known_x[task], known_y[task, :, 0]).predict(points[task], return_std=True)
        outs.append(torch.stack([torch.from_numpy(mean), torch.from_numpy(deviation).log()], -1))
    return EXACT, torch.stack(outs).to(x.device)
