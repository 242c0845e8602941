"""Seed files for tests: written in the format that their name says, and read as `prepare` reads them."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

from stages.data.seeds.files import of_file
from stages.data.seeds.pairs import SeedTally, pairs


def read(path: Path, columns=None, on_bad="fail", tally=None):
    """The pairs of a seed file."""
    return list(pairs(of_file(path, "seed.path"), f"seed.path {path}", tally or SeedTally(), columns, on_bad))


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """A file of rows; a name such as rows.csv.gz is packed."""
    path = folder / name
    if path.suffix == ".gz":
        plain = written(folder, path.stem, rows)
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as lines:
            separator = "," if path.suffix == ".csv" else "\t"
            writer = csv.DictWriter(lines, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), path)
    return path
