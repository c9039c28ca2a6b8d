"""Table `open_calls` as Faust knows it, with its store and a recovery that leaves the work to us.

Owns what Faust must see of a table: a name, a changelog topic, a store, the moment when partitions
must be ready. Refuses to know what is in it.

Why Faust's recovery stands aside: it waits for ever for the last offset of a changelog whose tail
compaction has removed; it reads again, on every rebalance, all that a worker wrote itself since the
last one; and it forgets to drop a lost partition's keys that were set while running. Ours
(`Assignment.assigned`) reads a partition back once, when it is taken, and to the end that the
broker tells.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import ChainMap, Counter
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Protocol, cast

import faust
from faust.stores.base import Store
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.types import TP

from stream_app.rocks_tables import RocksTables, temporary_folder
from stream_app.settings import ROCKSDB, WorkerSettings


class CallTables(Protocol):
    """Where the encoded calls are kept: a mapping a partition, so that it goes as a whole."""

    def new(self, number: int) -> MutableMapping[str, bytes]:
        """One partition's calls, none at first."""

    def drop(self, number: int) -> None:
        """Forgets a partition's calls."""

    def close(self) -> None:
        """Lets go of everything."""


class MemoryTables:
    """Calls in memory."""

    def new(self, number: int) -> MutableMapping[str, bytes]:
        """A partition's calls."""
        return {}

    def drop(self, number: int) -> None:
        """Nothing: a dict goes with its last user."""

    def close(self) -> None:
        """Nothing."""


def make_tables(settings: WorkerSettings) -> CallTables:
    """What the setting `state_store` asks for.

    Raises:
        StreamAppError: RocksDB cannot be used.
    """
    if settings.state_store == ROCKSDB:
        if settings.state_directory:
            return RocksTables(Path(settings.state_directory))
        return RocksTables(temporary_folder(Path(tempfile.gettempdir())))
    return MemoryTables()


class PartitionedStore(Store[str, bytes]):
    """The encoded calls of the partitions that are ours."""

    def __post_init__(self) -> None:
        self._partitions: dict[int, MutableMapping[str, bytes]] = {}

    @property
    def tables(self) -> CallTables:
        """Where the calls are kept; the app's."""
        return cast(CallTables, cast(Any, self.app).call_tables)

    def new_partition(self, number: int) -> MutableMapping[str, bytes]:
        """Room for a partition that is read back."""
        return self.tables.new(number)

    def put_partition(self, number: int, calls: MutableMapping[str, bytes]) -> None:
        """A partition as it was read back."""
        self._partitions[number] = calls

    def drop_partition(self, number: int) -> None:
        """A partition that is another worker's now."""
        if self._partitions.pop(number, None) is not None:
            self.tables.drop(number)

    def _all(self) -> ChainMap[str, bytes]:
        return ChainMap(*self._partitions.values())

    def __getitem__(self, key: str) -> bytes:
        return self._all()[key]

    def __setitem__(self, key: str, value: bytes) -> None:
        raise TypeError("calls are set in their partition's dict")

    def __delitem__(self, key: str) -> None:
        raise TypeError("calls are deleted in their partition's dict")

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return sum(len(calls) for calls in self._partitions.values())

    def _clear(self) -> None:
        self._partitions.clear()

    def apply_changelog_batch(self, batch: Any, to_key: Any, to_value: Any) -> None:
        """Nothing: see `OwnRecovery`."""

    def persisted_offset(self, tp: TP) -> int | None:
        """None: nothing of ours outlives the process."""
        return None

    def reset_state(self) -> None:
        """Nothing: there is no local state."""

    async def backup_partition(self, *args: Any, **options: Any) -> None:
        """Nothing: the changelog is the backup."""

    def restore_backup(self, *args: Any, **options: Any) -> None:
        """Nothing: the changelog is the backup."""


class OpenCallsTable(faust.Table[str, bytes]):
    """Table whose changelog is written and read by `changelog`."""

    def _new_store(self) -> PartitionedStore:
        return PartitionedStore("memory://", self.app, self, table_name=self.name)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Faust asks for the partitions to be ready; it resumes fetching when this returns.

        Trap: Faust waits for this among other tasks and drops its exception.
        """
        assignment, given = cast(Any, self.app).assignment, self.app.assignor.assigned_actives()
        try:
            await assignment.assigned(
                {tp.partition for tp in active_tps}, {(tp.topic, tp.partition) for tp in given}
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  ends the app, whatever it is
            await self.app.crash(error)


class OwnRecovery(Recovery):
    """Finds nothing to recover: every rebalance goes straight to `on_recovery_completed`."""

    async def _build_highwaters(self, *args: Any, **options: Any) -> None:
        return None

    async def _build_offsets(self, *args: Any, **options: Any) -> None:
        return None

    async def _seek_offsets(self, *args: Any, **options: Any) -> None:
        return None

    def need_recovery(self) -> bool:
        """Never."""
        return False

    def active_remaining(self) -> Counter[TP]:
        """Nothing."""
        return Counter()

    def standby_remaining(self) -> Counter[TP]:
        """Nothing."""
        return Counter()


class OwnTableManager(TableManager):
    """Faust's table manager with our recovery."""

    @property
    def recovery(self) -> Recovery:
        """Made on first use, as Faust does."""
        if self._recovery is None:
            self._recovery = OwnRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
