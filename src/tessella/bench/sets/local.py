"""Rows of a public set from the hub or from a copy, and the pictures in them, read with the `datasets` library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from ...core.errors import InputError

WAIT = 5  # seconds for the hub's first answer
READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}
HINT = "Give data: a copy of the repository, or a file of its rows."


@dataclass(frozen=True)
class Source:
    """Where the hub keeps a set: a commit of a repository, with the configuration and the split."""

    repository: str
    revision: str
    config: str | None
    split: str

    def __str__(self) -> str:
        config = "" if self.config is None else f", {self.config}"
        return f"{self.repository}@{self.revision[:7]}{config}, {self.split}"


def import_datasets(title: str) -> ModuleType:
    """The `datasets` library. Raises InputError naming the extra where it is not installed."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise InputError(
            f"{title} is read with datasets, which is not installed: pip install 'tessella[sets]'"
        ) from None
    return datasets


def read_rows(title: str, source: Source, data: str | Path | None, needed: tuple[str, ...]) -> Any:
    """A `datasets.Dataset` with at least the needed columns, in which pictures are not decoded.

    `data` is a folder laid out like the repository, or one file with the rows of the split; None is the hub. Raises
    InputError, naming the set, for what cannot be reached or read and for a column that is missing.
    """
    datasets = import_datasets(title)
    try:
        rows = _from_hub(datasets, source) if data is None else _from_copy(datasets, source, Path(data))
    except InputError as error:
        raise InputError(f"{title}: {error}") from None
    except Exception as error:  # hub, network and readers raise many kinds of error
        if isinstance(error, datasets.exceptions.DatasetGenerationError):
            error = error.__cause__ or error  # says only that there is one
        raise InputError(f"{title} cannot be read from {_place(source, data)}: {_first_line(error)}. {HINT}") from error
    missing = [name for name in needed if name not in rows.column_names]
    if missing:
        raise InputError(
            f"{title} cannot be read from {_place(source, data)}: it has no column {', '.join(map(repr, missing))}; "
            f"needed: {', '.join(needed)}."
        )
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def open_picture(cell: Any, folder: Path | None) -> Image.Image | None:
    """The RGB picture of a cell (bytes, or a path, which may be relative to `folder`); None if missing or broken.

    Decoded as `datasets` does, upright by its EXIF data.
    """
    import datasets

    if cell is None:
        return None
    cell = {"bytes": None, "path": cell} if isinstance(cell, str) else dict(cell)
    if cell["bytes"] is None and cell["path"] is not None and folder is not None:
        cell["path"] = str(folder / cell["path"])
    try:
        return datasets.Image().decode_example(cell).convert("RGB")
    except Exception:  # decoders raise many kinds of error on damaged data
        return None


def _from_hub(datasets: ModuleType, source: Source) -> Any:
    """The set from the hub, or from what `datasets` downloaded before."""
    config, reachable = datasets.config, _is_reachable(datasets.config.HF_ENDPOINT)
    was = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = was or not reachable  # it would try for half a minute before it looks into its cache
    try:
        return datasets.load_dataset(source.repository, source.config, split=source.split, revision=source.revision)
    except ConnectionError:
        raise InputError(f"{source} was not downloaded before, and the hub cannot be reached. {HINT}") from None
    finally:
        config.HF_HUB_OFFLINE = was


def _is_reachable(endpoint: str) -> bool:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=WAIT)
    except Exception:  # of whichever HTTP client it has
        return False
    return True


def _from_copy(datasets: ModuleType, source: Source, place: Path) -> Any:
    if place.is_dir():
        return datasets.load_dataset(str(place), source.config, split=source.split)
    if not place.is_file():
        raise InputError(f"there is no file or folder {str(place)!r}.")
    if place.suffix not in READERS:
        raise InputError(f"a file of rows ends in {', '.join(READERS)}; got {str(place)!r}.")
    return datasets.load_dataset(READERS[place.suffix], data_files=str(place), split="train")


def _place(source: Source, data: str | Path | None) -> str:
    return f"the hub ({source})" if data is None else repr(str(data))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
