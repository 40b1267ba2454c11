"""Build the documentation site: `python docs/build.py [FOLDER]`, by default build/site.

The pages and the files that they link to are copied into one tree, in which relative links lead where they lead in the
repository. A page that does not exist, an anchor that does not exist, and a Python name that is gone end the build.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**/*.md", "benchmarks/**/*.md"]


def linked_files(page: Path) -> list[Path]:
    """The files of the repository, other than pages, that a page shows or links to."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    paths = [(page.parent / target).resolve() for target in targets if "://" not in target]
    return [path for path in paths if path.is_file() and path.suffix != ".md"]


def build(site: Path) -> int:
    """The exit code of zensical."""
    pages = [page for pattern in PAGES for page in ROOT.glob(pattern)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for path in {path for page in pages for path in [page, *linked_files(page)]}:
            copy = work / "pages" / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        shutil.copy(ROOT / "docs" / "zensical.toml", work)
        command = ["zensical", "build", "--strict", "--config-file", str(work / "zensical.toml")]
        # The API page is made from the sources of this checkout, whatever is installed.
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode
        if code == 0:
            shutil.rmtree(site, ignore_errors=True)
            shutil.copytree(work / "site", site)
    return code


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"))
