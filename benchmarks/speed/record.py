"""What was measured, in one JSON file that a later run goes on from and a table is made of."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.speed.race import Entry
from benchmarks.speed.remote import ROOT
from metalearn_cli.errors import UserError

Record = dict[str, Any]
PACKAGES = ["torch", "learn2learn", "higher", "torchopt", "parallel-metalearn"]
PACKAGES += ["jax", "jaxlib", "jax-meta", "dm-haiku", "optax", "numpy"]


def load(path: Path, device: str, threads: int, any_conditions: bool) -> Record:
    """The file's, or an empty one. Raises UserError where it holds figures of other conditions, unless any will do."""
    conditions = {"device": device, "threads": threads, "cpu": cpu(), "versions": versions()}
    if not path.exists():
        return {"conditions": conditions, "checks": {}, "races": {}, "sweeps": {}}
    record: Record = json.loads(path.read_text())
    for name, value in conditions.items():
        if record["conditions"][name] != value and not any_conditions:
            raise UserError(
                f"{path} was measured with {name} {record['conditions'][name]}, and this run has {value}: give "
                "--again to replace it, or another --out"
            )
    return record


def save(record: Record, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)


def measured(entries: list[Entry]) -> Record:
    """Entries with when and how they were measured."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": " ".join(["python", "-m", "benchmarks.speed", *sys.argv[1:]]),
        "commit": commit(),
        "load": os.getloadavg()[1],
        "entries": [dataclasses.asdict(entry) for entry in entries],
    }


def entries(race: Record) -> list[Entry]:
    return [Entry(**entry) for entry in race["entries"]]


def cpu() -> str:
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) / 2**20
    parts = [model, f"{os.cpu_count()} cores", f"{memory:.0f} GiB", platform.system(), " ".join(platform.libc_ver())]
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """Of this checkout, with a + where files differ from it."""
    ran = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return ran.stdout.strip() or "unknown"
