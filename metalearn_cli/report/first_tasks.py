"""The first test tasks of a run as a picture on a page, from its examples.npz."""

import base64
import io
from html import escape

from PIL import Image

from metalearn_cli.errors import UserError
from metalearn_cli.pictures.raster import heading, picture, png
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.run_folder.records import arrays_of
from metalearn_cli.system.files import read_bytes

MOST_PIXELS = 30_000_000  # of test.png


def first_task(run: RunFolder) -> str:
    """HTML; a sentence where there is nothing to show."""
    if run.results is None:
        return "<p>Not finished: nothing was tested yet.</p>"
    file, older = run.folder / "examples.npz", run.folder / "test.png"
    if file.exists():
        arrays = arrays_of(file)
        try:
            return _image(picture(arrays), f"The first test tasks: {heading(arrays)}")
        except Exception as error:  # whatever numpy and Pillow raise where arrays are missing, or do not fit together
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{file} does not hold a run's test tasks ({what}): remove it") from error
    if not older.exists():
        return "<p>This kind of task has no picture: it has neither images nor curves of one variable.</p>"
    try:  # an earlier version wrote no examples.npz
        with Image.open(io.BytesIO(read_bytes(older)), formats=["PNG"]) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
            return _image(opened.convert("RGB"), "The first test tasks and what was predicted")
    except Exception as error:  # whatever the system and Pillow raise where this is not a PNG
        what = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{older} is not a picture of a run's test tasks ({what}): remove it") from error


def _image(image: Image.Image, about: str) -> str:
    """The pixels alone, written again: a file may be anybody's."""
    data = base64.b64encode(png(image)).decode()
    return f'<figure><img class="test" src="data:image/png;base64,{data}" alt="{escape(about)}"></figure>'
