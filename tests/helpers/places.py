"""Where the checkout, the golden runs and the table of the tests are."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "metalearn_cli"
TABLE = Path(__file__).with_name("table.csv")  # 20 tasks of 5 support and 5 query points
GOLDEN = ROOT / "tests" / "golden" / "runs"
MAML = GOLDEN / "0.1.0" / "maml"


def take(golden: Path, folder: Path) -> Path:
    """A copy that can be written to."""
    return Path(shutil.copytree(golden, folder / "outputs" / "run"))
