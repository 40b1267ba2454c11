"""The C library keeps freed memory, or does not, as the run asks."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from commands import succeed

from metalearn_cli.system import allocator
from metalearn_cli.system.allocator import Allocator, set_allocator

FAULTS = """
import resource, sys
from metalearn_cli.system.allocator import Allocator, set_allocator
set_allocator(Allocator[sys.argv[1]])
sizes = [8_000_000, 3_000_000, 9_000_000, 5_000_000]
for _ in range(2):  # the first round fills what can be kept
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in 10 * sizes:
        b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(name: str) -> int:
    """The page faults of forty blocks of some MB, one after the other, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FAULTS, name], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_tuned_it_keeps_memory_for_the_next_tensor() -> None:
    tuned, default = page_faults("tuned"), page_faults("default")
    assert default > 3 * tuned + 20  # fewer than the 60,000 of small pages where the kernel hands out huge ones


def test_a_c_library_without_the_call_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(allocator, "ctypes", type("Other", (), {"CDLL": lambda name: object()}))
    assert not set_allocator(Allocator.tuned)
    done = succeed(tmp_path, "train", "debug=quick", "name=one")
    assert "default allocator (this C library has no other)" in done.err


def test_it_does_not_change_a_bit(tmp_path: Path) -> None:
    for name in Allocator:
        done = succeed(tmp_path, "train", "debug=quick", f"allocator={name.name}", f"name={name.name}")
        assert f"{name.name} allocator" in done.err
    tuned, default = ((tmp_path / "outputs" / name.name / "metrics.jsonl").read_bytes() for name in Allocator)
    assert tuned == default
