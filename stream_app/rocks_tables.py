"""Open calls in RocksDB, for installations with more of them than memory should hold.

Owns one database a worker, in a folder of its own, with a bounded cache and bounded write buffers.
Nothing in it outlives the worker: the changelog is the truth, and each partition is read back from
it when it is taken, as with calls in memory. So there is no write-ahead log and nothing to repair.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, MutableMapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from stream_app.errors import StreamAppError

_TEMPORARY: Final = "cdrstream-calls-"
_CACHE_BYTES: Final = 32 << 20
_WRITE_BUFFER_BYTES: Final = 8 << 20
_WRITE_BUFFERS: Final = 2
_OPEN_FILES_MAX: Final = 64
_PREFIX_BYTES: Final = 4
_PORTION: Final = 1_000  # calls


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


def temporary_folder(parent: Path) -> Path:
    """A new folder; those of workers that were killed go: the ones that nobody has locked.

    One that another worker has made and not opened yet has no lock file, and stays. So do this
    process's own: whoever closes a file gives up all locks that his process has on it.
    """
    own = f"{_TEMPORARY}{os.getpid()}-"
    for folder in parent.glob(f"{_TEMPORARY}*"):
        if folder.name.startswith(own):
            continue
        with contextlib.suppress(OSError), (folder / "LOCK").open("r+b") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=own, dir=parent))


def _options(rocksdict: Any) -> Any:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(_WRITE_BUFFERS)
    options.set_max_open_files(_OPEN_FILES_MAX)
    # Reading a partition back writes all of it once, in any order: merging by levels takes half as
    # much CPU again for that, and goes on while the backlog waits.
    options.set_compaction_style(rocksdict.DBCompactionStyle.universal())
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
        self._db[self._key(call_id)] = encoded

    def __delitem__(self, call_id: str) -> None:
        key = self._key(call_id)
        if key not in self._db:
            raise KeyError(call_id)
        del self._db[key]

    def __len__(self) -> int:
        """How many calls there are: they are counted for it, all of them."""
        return sum(1 for _ in self._entries())

    def __iter__(self) -> Iterator[str]:
        return (call_id for call_id, _ in self._entries())

    def items(self) -> Any:
        """All calls in the order of Call-IDs, each as it is when it is reached.

        The table may change meanwhile. In portions, because an open iterator keeps what it began
        with in memory and on disk, and who talks is told over minutes.
        """
        return self._entries()

    def _entries(self) -> Iterator[tuple[str, bytes]]:
        skip, prefix, start = _PREFIX_BYTES, self._prefix, self._prefix
        while True:
            portion = list(islice(self._db.items(from_key=start), _PORTION))
            for key, encoded in portion:
                if key[:skip] != prefix:
                    return
                yield key[skip:].decode("utf-8", "surrogatepass"), encoded
            if len(portion) < _PORTION:
                return
            start = portion[-1][0] + b"\0"

    def clear(self) -> None:
        """Forgets all."""
        self._db.delete_range(self._prefix, self._end)
