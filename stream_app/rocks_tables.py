"""Open calls in RocksDB, for installations with more of them than memory should hold.

Owns one database a worker, in a folder of its own, with a bounded cache and bounded write buffers.
Nothing in it outlives the worker: the changelog is the truth, and each partition is read back from
it when it is taken, as with calls in memory. So there is no write-ahead log and nothing to repair.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final

from stream_app.errors import StreamAppError

_CACHE_BYTES: Final = 32 << 20
_WRITE_BUFFER_BYTES: Final = 8 << 20
_WRITE_BUFFERS: Final = 2
_OPEN_FILES_MAX: Final = 64
_PREFIX_BYTES: Final = 4


class RocksTables:
    """The partitions' calls in one RocksDB database."""

    def __init__(self, folder: Path) -> None:
        """Opens an empty database; what an earlier worker left in the folder is removed.

        Raises:
            StreamAppError: RocksDB is not installed, or the folder cannot be used.
        """
        try:
            import rocksdict  # noqa: PLC0415  an extra: most installations need none
        except ImportError as error:
            raise StreamAppError(
                "open calls cannot be kept in RocksDB: rocksdict is not installed",
                "pip install 'cdrstream[rocksdb]', or worker.state_store = \"memory\"",
            ) from error
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(Exception):  # an empty folder holds no database to destroy
                rocksdict.Rdict.destroy(str(folder), rocksdict.Options(raw_mode=True))
            self._db = rocksdict.Rdict(str(folder), _options(rocksdict))
        except Exception as error:
            raise StreamAppError(
                f"open calls cannot be kept in {folder}: {error}",
                "another worker may use the folder: give each its own worker.state_directory",
            ) from error
        write: Any = rocksdict.WriteOptions()
        write.disable_wal = True  # a property, whatever its type stub says
        self._db.set_write_options(write)

    def new(self, number: int) -> RocksTable:
        """One partition's calls, none at first."""
        table = RocksTable(self._db, number)
        table.clear()
        return table

    def drop(self, number: int) -> None:
        """Forgets a partition's calls."""
        RocksTable(self._db, number).clear()

    def close(self) -> None:
        """Closes the database and removes it."""
        self._db.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _options(rocksdict: Any) -> Any:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(_WRITE_BUFFERS)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_compression_type(rocksdict.DBCompressionType.none())  # states are compressed
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(rocksdict.Cache(_CACHE_BYTES))
    blocks.set_bloom_filter(10.0, False)
    blocks.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(blocks)
    return options


class RocksTable(MutableMapping[str, bytes]):
    """One partition's calls: Call-ID to encoded state, under keys that begin with its number."""

    def __init__(self, db: Any, number: int) -> None:
        self._db = db
        self._prefix = number.to_bytes(_PREFIX_BYTES, "big")
        self._end = (number + 1).to_bytes(_PREFIX_BYTES, "big")
        self._count = 0

    def _key(self, call_id: str) -> bytes:
        return self._prefix + call_id.encode("utf-8", "surrogatepass")

    def __getitem__(self, call_id: str) -> bytes:
        encoded: bytes | None = self._db.get(self._key(call_id))
        if encoded is None:
            raise KeyError(call_id)
        return encoded

    def get(self, call_id: str, default: Any = None) -> Any:
        """The state, or `default`."""
        encoded = self._db.get(self._key(call_id))
        return default if encoded is None else encoded

    def __contains__(self, call_id: object) -> bool:
        return isinstance(call_id, str) and self._key(call_id) in self._db

    def __setitem__(self, call_id: str, encoded: bytes) -> None:
        key = self._key(call_id)
        self._count += key not in self._db
        self._db[key] = encoded

    def __delitem__(self, call_id: str) -> None:
        key = self._key(call_id)
        if key not in self._db:
            raise KeyError(call_id)
        del self._db[key]
        self._count -= 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (call_id for call_id, _ in self._entries())

    def items(self) -> Any:
        """All calls in the order of Call-IDs, as they are when this is asked."""
        return self._entries()

    def _entries(self) -> Iterator[tuple[str, bytes]]:
        skip = _PREFIX_BYTES
        for key, encoded in self._db.items(from_key=self._prefix):
            if key[:skip] != self._prefix:
                return
            yield key[skip:].decode("utf-8", "surrogatepass"), encoded

    def clear(self) -> None:
        """Forgets all."""
        self._db.delete_range(self._prefix, self._end)
        self._count = 0
