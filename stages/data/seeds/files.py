"""Seed files as rows: JSON Lines, JSON, CSV, TSV, Parquet, a folder of them, or a data set of the hub.

Rows are read one at a time, so a file may be larger than memory (a JSON document is held as text, its rows one by one).
What a row's values were written as, they stay: the digits of a number in JSON are its text. A row that cannot be read
comes as a `RowError`, and the rows after it are read; a file that cannot be read at all is a `UserError`.
"""

import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.data.seeds.csv_files import checked_names, csv_rows, tsv_rows
from stages.data.seeds.fields import plain
from stages.data.seeds.json_files import json_rows
from stages.data.seeds.source import OPENERS, RowError, Rows, format_of, open_file, shown
from stages.models import hub

BATCH = 1000  # rows of a Parquet file at once
# Files about a data set, and what tools leave beside one.
ABOUT = {"readme", "license", "licence", "dataset_info", "dataset_infos", "dataset_dict", "config", "state", "metadata"}
ABOUT_SUFFIXES = {".md", ".dvc", ".lock", ".crc", ".yaml", ".yml", ".py", ".pyc"}
SPLITS = {
    **dict.fromkeys(("train", "training", "trainset", "traindata"), "train"),
    **dict.fromkeys(("test", "testing", "testset", "testdata", "holdout", "heldout"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devset", "valset", "eval", "evaluation"), "validation"),
}
ADVICE = {
    **dict.fromkeys((".zip", ".tar", ".zst", ".7z"), "unpack it"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "export the sheet as CSV"),
    **dict.fromkeys((".arrow", ".feather"), "save it with to_parquet or to_json of Hugging Face datasets"),
}


def of_seed(settings: dict[str, Any]) -> Rows:
    """The rows of the seed set, by the section `seed` of params.yaml."""
    return of_hub(settings["hub"]) if settings["hub"] else of_file(Path(settings["path"]), "seed.path")


def of_file(path: Path, what: str) -> Rows:
    """The rows of a file, or of all files of a folder, each with its line or number; `what`: the parameter that names
    it. Raises `UserError` for one that cannot be read."""
    if path.is_dir():
        yield from _of_folder(path, what)
        return
    suffix = format_of(path)
    if suffix not in READERS:
        advice = ADVICE.get(path.suffix.lower(), "convert it, or rename it by what it holds")
        raise UserError(f"{what} {path} is none of {', '.join(READERS)}; {advice}")
    try:
        yield from READERS[suffix](path)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; create it or correct the path") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{what} {path} cannot be read: {error.strerror}; name a file") from None
        raise UserError(f"{what} {path} is not a {suffix[1:]} file: {_reason(error)}; save it again") from None


def _reason(error: Exception) -> str:
    """What an error says, in a line."""
    return shown(next(iter(str(error).splitlines()), type(error).__name__), 300)


def _of_folder(folder: Path, what: str) -> Rows:
    """The rows of a folder's files by name; hidden files and those about them are passed over."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _may_hold_rows(path.relative_to(folder)))
    names = [str(path.relative_to(folder)) for path in files]
    if not any(format_of(path) in READERS for path in files):
        raise UserError(f"{what} {folder} is a folder without any {', '.join(READERS)}; name a file")
    splits = {split: name for name in names if format_of(Path(name)) in READERS for split in _splits(name)}
    if len(splits) > 1:
        listed = ", ".join(f"{split} ({shown(splits[split], 80)})" for split in sorted(splits))
        raise UserError(
            f"{what} {folder} is a folder with several splits, {listed}; name the file or the folder of one of them"
        )
    for path, name in zip(files, names, strict=True):
        if format_of(path) in READERS:
            yield from ((f"{name}, {where}", row) for where, row in of_file(path, what))
        else:
            yield name, RowError("a file of another kind in the folder")


def _splits(name: str) -> set[str]:
    """The splits that a file's name speaks of: train-00000-of-00001, my_testset, validTrain2."""
    return {SPLITS[part] for part in re.split(r"[_\d]+", plain(name)) if part in SPLITS}


def _may_hold_rows(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts) or path.name.endswith("~")
    return not hidden and path.suffix.lower() not in ABOUT_SUFFIXES and path.stem.lower() not in ABOUT


def of_hub(settings: dict[str, Any]) -> Rows:
    """The rows of a data set of the hub, `seed.hub`: {"id", "config", "split", "revision"}. Raises `UserError` if it
    can be neither fetched nor found in the Hugging Face cache, or has no such config or split."""
    folder = hub.fetch_data_set(settings)
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(str(folder), settings["config"], split=settings["split"], streaming=True)
        rows = rows.decode(False)  # images and audio stay bytes
        yield from ((f"row {number:,}", row) for number, row in enumerate(rows, 1))
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(f"seed.hub: {settings['id']}: {_reason(error)}; correct config or split") from error


def parquet_rows(path: Path) -> Rows:
    """The rows of a Parquet file. Raises `ValueError` where it is damaged, or if two columns have the same name."""
    from pyarrow import ArrowException, BufferReader
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        packed = path.suffix.lower() in OPENERS
        file = ParquetFile(BufferReader(open_file(path).read()) if packed else path)
        names = checked_names(file.schema_arrow.names)
        for batch in file.iter_batches(BATCH):
            for values in zip(*map(_column, batch.columns), strict=True):
                number += 1
                yield f"row {number:,}", dict(zip(names, values, strict=True))
    except (ArrowException, MemoryError) as error:
        raise ValueError(f"row {number + 1:,}: {error}") from None


def _column(column: Any) -> list[Any]:
    """The values of a Parquet column; one that Python cannot hold is a `RowError`."""
    from pyarrow import ArrowException

    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, ArrowException):
        return [_scalar(value) for value in column]


def _scalar(value: Any) -> Any:
    from pyarrow import ArrowException

    try:
        return value.as_py()
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    except (ValueError, OverflowError, ArrowException):
        return RowError(f"a {value.type} instead of text")


READERS: dict[str, Callable[[Path], Rows]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), json_rows),
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
}
