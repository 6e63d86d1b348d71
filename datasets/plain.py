"""Plain pictures and videos, without labels: files, folders and patterns, as people name them to predict."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from retinue.datasets.image_folder import pictures_below
from retinue.datasets.picture_files import PictureFiles
from retinue.datasets.targets import ClassMap, DataError, Sample
from retinue.datasets.video import is_video


class PlainPictures(PictureFiles):
    """Picture files without targets. Their ids are their paths from above the folder that all of them are below, so
    that they begin with the name of a folder."""

    keys: frozenset[str] = frozenset()

    def __init__(self, paths: Sequence[Path]) -> None:
        files = [os.path.abspath(path) for path in paths]
        root = Path(os.path.commonpath([os.path.dirname(file) for file in files])).parent
        super().__init__(root, "pictures", [os.path.relpath(file, root) for file in files], ClassMap(()))

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.id(index), self.read(index))


def find_pictures(sources: Iterable[str | Path], videos: bool = False) -> list[Path]:
    """The picture files behind some sources, each once, in the order given; folders by name, at any depth.

    A source is a file (of any suffix), a folder, or a pattern with *, ? and [] (** for any depth). With `videos`,
    those in folders are found too, after their pictures.
    Raises DataError naming a source behind which there is no picture, and what was tried.
    """

    def below(folder: Path) -> list[Path]:
        return pictures_below(folder) + (videos_below(folder) if videos else [])

    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            paths = below(path)
        elif path.exists():
            paths = [path]
        else:
            matches = (Path(match) for match in sorted(glob.glob(str(path), recursive=True)))
            paths = [each for match in matches for each in (below(match) if match.is_dir() else [match])]
        if not paths:
            kind = "a folder without pictures" if path.is_dir() else "no file, folder or pattern that matches"
            raise DataError(f"{source}: {kind} ({path.absolute()} was tried); name a picture")
        found.update(dict.fromkeys(paths))
    return list(found)


def videos_below(folder: Path) -> list[Path]:
    """Every video file below a folder, by its suffix; hidden ones are left out."""
    found = (path for path in sorted(folder.rglob("*")) if is_video(path) and path.is_file())
    return [
        path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
