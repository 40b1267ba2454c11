"""Makes a folder as a user might bring it: classes of CIFAR-FS in ten formats, modes and sizes, and a few mishaps.

    python benchmarks/own_images.py FOLDER [--images 100] [--mishaps]

FOLDER/<superclass>/<class>/*: all 100 classes. --mishaps adds what goes wrong in real folders. own_images.md has what
was measured on it. Wants METALEARN_DATA with cifar-fs/cifar100/ (see the README).
"""

import argparse
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from metalearn_cli.datasets.formats import open_picture
from metalearn_cli.datasets.paths import data_root
from metalearn_cli.tasks import cifar_fs


def save(picture: Image.Image, path: Path, kind: int) -> None:
    """One of ten ways in which a picture comes."""
    if kind == 0:
        picture.save(path.with_suffix(".png"))
    elif kind == 1:
        picture.resize((48, 48), Image.Resampling.BICUBIC).save(path.with_suffix(".JPG"), "JPEG", quality=90)
    elif kind == 2:
        picture.resize((64, 64), Image.Resampling.BICUBIC).save(path.with_suffix(".webp"), quality=90)
    elif kind == 3:
        framed = Image.new("RGBA", (40, 40))  # transparent around the picture
        framed.paste(picture, (4, 4))
        framed.save(path.with_suffix(".png"))
    elif kind == 4:
        picture.quantize(128).save(path.with_suffix(".gif"))
    elif kind == 5:
        picture.convert("CMYK").save(path.with_suffix(".jpeg"), quality=95)
    elif kind == 6:
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its side, as a telephone saves it
        picture.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".jpg"), quality=95, exif=exif)
    elif kind == 7:
        wide = Image.new("RGB", (44, 32), "white")  # a picture with margins left and right
        wide.paste(picture, (6, 0))
        wide.save(path.with_suffix(".bmp"))
    elif kind == 8:
        grey = picture.convert("L").point(lambda value: value * 257, "I").convert("I;16")
        grey.save(path.with_suffix(".tiff"))
    else:
        picture.convert("L").save(path.with_suffix(".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100, help="of each class, at most 600")
    parser.add_argument("--mishaps", action="store_true")
    chosen = parser.parse_args()
    for listed in tqdm(cifar_fs.classes(), desc="writing classes", disable=None):
        folder = chosen.folder / listed.group / listed.name
        folder.mkdir(parents=True)
        source = data_root() / "cifar-fs" / "cifar100" / "data" / listed.name
        for number, path in enumerate(sorted(source.glob("*.png"))[: chosen.images]):
            with open_picture(path) as picture:
                save(picture.convert("RGB"), folder / f"{number:03}", number % 10)
    if chosen.mishaps:
        first, second = (chosen.folder / name for name in ("people/baby", "fish/shark"))
        (first / "empty.jpg").write_bytes(b"")
        (first / "page.png").write_text("<html>404 Not Found</html>")
        (first / "half.webp").write_bytes((first / "002.webp").read_bytes()[:200])
        (second / "icon.png").write_bytes(b"")
        Image.new("RGB", (4, 4)).save(second / "icon.png")
        (second / "gone.jpg").symlink_to("nowhere.jpg")
        (second / "baby.png").write_bytes((first / "000.png").read_bytes())
        (second / "notes.txt").write_text("not an image, and not taken for one")


if __name__ == "__main__":
    main()
