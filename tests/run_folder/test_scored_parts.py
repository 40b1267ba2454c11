"""The kept parts of an unfinished test are read as they were written, or not at all."""

from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.learning.evaluate import _joined
from metalearn_cli.learning.learner import Scores
from metalearn_cli.run_folder.scored_parts import read_parts, write_part

MODES = [BatchNorm.transductive, BatchNorm.running]


def scores(steps: int) -> Scores:
    def drawn(*shape: int) -> Tensor:
        return torch.randn(3, *shape, generator=torch.Generator().manual_seed(steps))

    return Scores(drawn(steps), drawn(steps), {"brier": drawn(), "calibration": drawn(3, 15)})


def test_a_part_has_the_same_bits_after_the_disk_and_a_cut_one_is_left_out(tmp_path: Path) -> None:
    folder, part = tmp_path / "unfinished" / "key", dict(zip(MODES, (scores(4), scores(1)), strict=True))
    write_part(folder, (8, 3), part)
    (again,) = (read := read_parts(folder, MODES)).values()
    assert list(read) == [(8, 3)]
    for mode in MODES:
        assert torch.equal(again[mode].loss, part[mode].loss)
        assert torch.equal(again[mode].metric, part[mode].metric)
        assert again[mode].beside.keys() == part[mode].beside.keys()
        assert all(torch.equal(again[mode].beside[name], value) for name, value in part[mode].beside.items())
    assert read_parts(folder, [*MODES, BatchNorm.inductive]) == {}  # which was not scored
    (file,) = folder.iterdir()
    file.rename(folder / file.name.replace("-3-", "-4-"))
    assert read_parts(folder, MODES) == {}


def test_a_kept_part_joins_one_that_was_scored_now(tmp_path: Path) -> None:
    """The file names its tensors in any order."""
    fresh = {mode: scores(2)._replace(beside={"sharp": torch.ones(3), "brier": torch.zeros(3)}) for mode in MODES}
    write_part(tmp_path / "unfinished" / "key", (0, 3), fresh)
    (read,) = read_parts(tmp_path / "unfinished" / "key", MODES).values()
    kept = {mode: read[mode]._replace(beside=dict(sorted(read[mode].beside.items()))) for mode in MODES}
    for both in ([fresh, kept], [kept, fresh]):
        beside = _joined(both)[MODES[0]].beside
        assert (beside["sharp"].tolist(), beside["brier"].tolist()) == ([1] * 6, [0] * 6)
