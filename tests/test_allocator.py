"""The C library keeps freed memory, or does not, as the run asks."""

import ctypes
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import run

from metalearn_cli import allocator
from metalearn_cli.allocator import Allocator, set_allocator

has_mallopt = pytest.mark.skipif(not set_allocator(Allocator.default), reason="not glibc")


@pytest.fixture(autouse=True)
def _default_afterwards() -> Iterator[None]:
    yield
    set_allocator(Allocator.default)


def page_faults() -> int:
    """Of ten tensors of 8 MB, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@has_mallopt
def test_tuned_it_keeps_memory_for_the_next_tensor() -> None:
    set_allocator(Allocator.tuned)
    page_faults()
    tuned = page_faults()
    set_allocator(Allocator.default)
    assert page_faults() > 3 * tuned + 20  # some, also where the kernel hands out huge pages


def test_a_c_library_without_the_call_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(allocator, "ctypes", type("Other", (), {"CDLL": lambda name: object()}))
    assert not set_allocator(Allocator.tuned)
    done = run(tmp_path, "train", "debug=quick", "name=one")
    assert done.code == 0, done.err
    assert "default allocator (this C library has no other)" in done.err
    monkeypatch.setattr(allocator, "ctypes", ctypes)


def test_it_does_not_change_a_bit(tmp_path: Path) -> None:
    for name in Allocator:
        done = run(tmp_path, "train", "debug=quick", f"allocator={name.name}", f"name={name.name}")
        assert done.code == 0, done.err
        assert f"{name.name} allocator" in done.err
    tuned, default = ((tmp_path / "outputs" / name.name / "metrics.jsonl").read_bytes() for name in Allocator)
    assert tuned == default
