"""Could Winograd's 3x3 convolutions pass the bound of direct ones? F(2x2, 3x3) and F(4x4, 3x3) in torch's operations.

    python benchmarks/leads/winograd.py [rounds]

Forward of W2's second layer: 8 tasks, 75 images of 14x14, 64 to 64 channels. Each part is timed, in turn with the
grouped convolution that the program uses: the transform of the input, the products, the transform of the output. The
weights' transform is left out, in Winograd's favour.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.system.allocator import Allocator, set_allocator

TASKS, BATCH, CHANNELS, SIZE = 8, 75, 64, 14
# Lavin and Gray 2016 (arXiv 1509.09308): output m x m, tiles of (m + 2) x (m + 2).
INPUT = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
WEIGHT = {
    2: [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
OUTPUT = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}


def transform(matrix: list[list[float]], x: Tensor, dim: int) -> Tensor:
    """A small matrix along one dimension, as sums of slices: each output is one pass over its terms."""
    slices = x.unbind(dim)
    rows = []
    for row in matrix:
        terms = [(factor, part) for factor, part in zip(row, slices, strict=True) if factor]
        factor, total = terms[0][0], terms[0][1] * terms[0][0] if terms[0][0] != 1 else terms[0][1]
        for factor, part in terms[1:]:
            total = torch.add(total, part, alpha=factor)
        rows.append(total)
    return torch.stack(rows, dim)


def to_tiles(x: Tensor, m: int) -> Tensor:
    """x [T, B, H, W, C] -> transformed tiles [m + 2, m + 2, T, B * tiles, C]."""
    tiles = -(-SIZE // m)
    pad = tiles * m - SIZE
    padded = F.pad(x, (0, 0, 1, 1 + pad, 1, 1 + pad))
    windows = padded.unfold(2, m + 2, m).unfold(3, m + 2, m)  # [T, B, tiles, tiles, C, m + 2, m + 2]
    windows = windows.permute(5, 6, 0, 1, 2, 3, 4)
    return transform(INPUT[m], transform(INPUT[m], windows, 0), 1).flatten(3, 5)


def from_tiles(y: Tensor, m: int) -> Tensor:
    """y [m + 2, m + 2, T, B * tiles, O] -> [T, B, H, W, O]."""
    tiles = -(-SIZE // m)
    y = transform(OUTPUT[m], transform(OUTPUT[m], y, 0), 1).view(m, m, TASKS, BATCH, tiles, tiles, -1)
    return y.permute(2, 3, 4, 0, 5, 1, 6).reshape(TASKS, BATCH, tiles * m, tiles * m, -1)[:, :, :SIZE, :SIZE]


def main(rounds: int) -> None:
    set_allocator(Allocator.tuned)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(TASKS, BATCH, SIZE, SIZE, CHANNELS, generator=rng)
    weight = torch.randn(TASKS, CHANNELS, CHANNELS, 3, 3, generator=rng) / 24
    folded = x.permute(1, 0, 4, 2, 3).reshape(BATCH, -1, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    flat = weight.flatten(0, 1)
    exact = F.conv2d(folded.double(), flat.double(), padding=1, groups=TASKS)
    work: dict[str, Callable[[], Tensor]] = {"direct": lambda: F.conv2d(folded, flat, padding=1, groups=TASKS)}
    for m in (2, 4):
        kernel = torch.tensor(WEIGHT[m])
        u = torch.einsum("ai,bj,toc" + "ij->abtco", kernel, kernel, weight).flatten(0, 2).contiguous()
        v = to_tiles(x, m)
        flat_v = v.flatten(0, 2)
        product = torch.bmm(flat_v, u)
        back = product.view(*v.shape[:4], -1)
        found = from_tiles(back, m).permute(1, 0, 4, 2, 3).reshape(exact.shape)
        error = ((found - exact).norm() / exact.norm()).item()
        direct_error = ((work["direct"]() - exact).norm() / exact.norm()).item()
        print(f"F({m}x{m}): relative error {error:.1e}, direct {direct_error:.1e}")
        work[f"F({m}x{m}) input"] = lambda m=m: to_tiles(x, m)  # type: ignore[misc]
        work[f"F({m}x{m}) products"] = lambda v=flat_v, u=u: torch.bmm(v, u)  # type: ignore[misc]
        work[f"F({m}x{m}) output"] = lambda y=back, m=m: from_tiles(y, m)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, call in work.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<20}{1e3 * seconds:8.1f} ms{seconds / medians['direct']:8.2f} of direct")
    for m in (2, 4):
        total = sum(medians[f"F({m}x{m}) {part}"] for part in ("input", "products", "output"))
        print(f"F({m}x{m}) in all{1e3 * total:14.1f} ms{total / medians['direct']:8.2f} of direct")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
