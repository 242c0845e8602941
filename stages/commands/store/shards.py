"""A shard: stored completions in one Parquet file, compressed with zstd, whose name is the SHA-256 of its content.

It has two columns, `key` and `value`, as the completion store has them (inference/store.py), and nothing that tells who
made it, when or where. A shard is never changed; so whatever several machines push at once, they never write one file.
"""

import hashlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING

from stages.commands.store.exchange import Call

if TYPE_CHECKING:
    import pyarrow

FORMAT = "1"  # raise it whenever a shard of this version means something else to an earlier one
UNKNOWN = "of an unknown format"
SUFFIX = ".parquet"
BYTES = 64 * 2**20  # of keys and values in a shard, uncompressed
LEVEL = 9  # of zstd: a third less than at 1; packing a million completions takes half a minute
OVERHEAD = 100  # bytes that a call takes in memory at least


def batches(calls: Iterable[Call]) -> Iterator[list[Call]]:
    """The calls, as many at once as go into a shard."""
    batch: list[Call] = []
    size = 0
    for call in calls:
        batch.append(call)
        size += len(call.key) + len(call.value) + OVERHEAD
        if size >= BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def pack(calls: list[Call]) -> tuple[str, bytes]:
    """The shard of these calls: its name and its content. The same calls in the same order give the same bytes."""
    import pyarrow
    import pyarrow.parquet

    schema = _schema()
    columns = ([call.key for call in calls], [call.value for call in calls])
    arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    content = BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_arrays(arrays, schema=schema),
        content,
        compression="zstd",
        compression_level=LEVEL,
        use_dictionary=False,  # no two values are equal
        write_statistics=False,
        data_page_size=8 * 2**20,  # pages are compressed one by one
    )
    return _name(content.getvalue()), content.getvalue()


def unpack(name: str, content: bytes) -> dict[bytes, bytes]:
    """{key: value} of a shard. Raises `ValueError`, whose text says what is wrong with it."""
    import pyarrow
    import pyarrow.parquet

    if _name(content) != name:
        raise ValueError("damaged")
    try:
        table = pyarrow.parquet.read_table(BytesIO(content))
    except (pyarrow.ArrowException, OSError):
        raise ValueError(UNKNOWN) from None
    if not table.schema.equals(_schema(), check_metadata=True):
        raise ValueError(UNKNOWN)
    return dict(zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True))


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() + SUFFIX


def _schema() -> "pyarrow.Schema":
    import pyarrow

    fields = [pyarrow.field("key", pyarrow.binary(32), False), pyarrow.field("value", pyarrow.binary(), False)]
    return pyarrow.schema(fields, metadata={"format": FORMAT})
