"""What is known of each image set, without importing torch, which takes a second: lists must be quick."""

import ast
import functools
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.datasets.paths import cache_root, data_root, expand
from metalearn_cli.errors import UserError


class About(NamedTuple):
    """What a set's file says of the set, in literals: `about_sets` reads them in its source."""

    title: str
    folder: str  # in $METALEARN_DATA; the names of its packed files begin with it and a hyphen
    layouts: tuple[tuple[str, ...], ...]  # what must be in it: all of one of these
    classes: int
    images: int
    fewest: int  # images of the smallest class
    licence: str
    instructions: str  # how to get it
    downloads: tuple[tuple[str, str, str], ...] = ()  # what a program may fetch: the name of a file, address, md5

    def folder_of(self, root: str | None = None) -> Path:
        """Return the folder where the source of this set is looked for."""
        return expand(root) if root is not None else data_root() / self.folder

    def is_in(self, folder: Path) -> bool:
        return any(all((folder / part).exists() for part in layout) for layout in self.layouts)

    @property
    def parts(self) -> str:
        return " or ".join(", ".join(layout) for layout in self.layouts)

    def source_folder(self, root: str | None) -> Path:
        """Return the folder that holds the source. Raises UserError if it does not."""
        if not self.is_in(folder := self.folder_of(root)):
            raise UserError(
                f"{self.title} is not in {folder}, which needs {self.parts}: {self.instructions}; or set METALEARN_DATA"
                f" to the folder whose subfolder {self.folder} holds it, or task.root to the folder itself"
            )
        return folder

    def packed_files(self) -> list[Path]:
        """Return the packed files of this set: one for each way in which its images were made small."""
        return sorted(cache_root().glob(f"{self.folder}-[0-9]*.{'[0-9a-f]' * 16}.safetensors"))


@functools.cache
def about_sets() -> dict[str, About]:
    """Return what is known of each set, by the name of its task, which is that of its file in this folder."""
    sets: dict[str, About] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)) if "(ImageTask):" in source else ():
            match node:
                case ast.Assign(targets=[ast.Name(id="about")], value=ast.Call(keywords=words)):
                    sets[path.stem] = About(**{str(word.arg): ast.literal_eval(word.value) for word in words})
    return sets
