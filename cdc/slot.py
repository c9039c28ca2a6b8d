"""What must hold of a server before it is read, and the making of its slot.

Owns the checks (version, wal_level, encoding, slot, stored position against the server's identity;
`publication` has its own) and slot creation. Refuses to read rows and to decide what a lost slot
means.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection
from cdc.encodings import codec_of
from cdc.errors import (
    NotLogical,
    ServerChanged,
    ServerInRecovery,
    SlotBusy,
    SlotForeign,
    SlotLost,
    TableMissing,
    TimelineChanged,
)
from cdc.lsn import lsn_text, parse_lsn
from cdc.position_store import StoredPosition
from cdc.publication import Published, check_publication
from cdc.queries import fetch_all, fetch_one, fetch_opt
from cdc.settings import CALL_TABLE

logger = logging.getLogger(__name__)

VERSION_MIN = 140_000
OPTIONS_VERSION_MIN = 150_000
FAILOVER_VERSION_MIN = 170_000
_LOCK = "hashtextextended('cdrstream reader ' || %s, 0)"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server is like, as far as reading depends on it.

    Attributes:
        version: As in `server_version_num`.
        codec: How its text is decoded here; None: it is UTF-8, and the server makes sure of it.
        wal_segment_bytes: Size of a log file.
        wal_block_bytes: Size of a page of the log.
        published: What the publication carries of ours.
        tells_ids: The row of call_state_events with the highest id may be asked for.
    """

    version: int
    codec: str | None
    wal_segment_bytes: int
    wal_block_bytes: int
    published: Published
    tells_ids: bool

    @property
    def tables(self) -> tuple[str, ...]:
        """The published tables of ours."""
        return self.published.tables


@dataclass(frozen=True, slots=True)
class Identity:
    """Which history of which server: IDENTIFY_SYSTEM."""

    system_id: str
    timeline: int
    flushed: int


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of pg_replication_slots."""

    plugin: str
    database: str
    active_pid: int | None
    confirmed: int
    wal_status: str
    safe_wal_bytes: int | None
    retained_bytes: int | None
    unread_bytes: int | None
    failover: bool = False


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """A new slot: everything committed after `consistent` streams, `snapshot` shows the rest."""

    consistent: int
    snapshot: str | None


async def check_server(conn: Connection, publication: str) -> ServerFacts:
    """Checks what START_REPLICATION would not, or only with the first row.

    Raises:
        CdcError: The first thing that does not hold, with its advice.
    """
    row = await fetch_one(
        conn,
        "select current_setting('server_version_num')::int, current_setting('wal_level'),"
        " current_setting('server_encoding'), pg_size_bytes(current_setting('wal_segment_size')),"
        " current_setting('wal_block_size')::int, to_regclass(%s) is not null,"
        " (select count(*) = 2 from pg_attribute where attrelid = to_regclass(%s)"
        " and attname in ('id', 'call_id') and not attisdropped"
        " and has_table_privilege(attrelid, 'select')), pg_is_in_recovery()",
        (CALL_TABLE, CALL_TABLE),
    )
    version, wal_level, encoding, segment_bytes, block_bytes, has_table, tells_ids, standby = row
    if version < VERSION_MIN:
        raise NotLogical(f"PostgreSQL {version // 10_000} is too old; 14 is needed")
    if standby:
        raise ServerInRecovery("the server is a standby")
    if wal_level != "logical":
        raise NotLogical(f"wal_level is {wal_level}, logical is needed")
    if not has_table:
        raise TableMissing(f"the database has no table {CALL_TABLE}")
    published = await check_publication(conn, publication)
    codec = codec_of(encoding)
    return ServerFacts(version, codec, segment_bytes, block_bytes, published, tells_ids)


async def identify(walsender: Connection) -> Identity:
    """Asks the walsender who it is."""
    row = await fetch_one(walsender, "IDENTIFY_SYSTEM")
    return Identity(str(row[0]), int(row[1]), parse_lsn(str(row[2])))


async def branched_at(walsender: Connection, timeline: int, ancestor: int) -> int | None:
    """Where `timeline` left `ancestor`: up to there their logs are the same; None: it did not.

    Raises:
        CdcError: The server has no such history.
    """
    if timeline <= ancestor:
        return None  # numbers only grow; and the first timeline has no history to ask for
    row = await fetch_one(walsender, f"TIMELINE_HISTORY {timeline}")
    content = row[1].decode() if isinstance(row[1], bytes) else str(row[1])
    for line in content.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] == str(ancestor):
            return parse_lsn(fields[1])
    return None


def check_position(stored: StoredPosition, identity: Identity) -> None:
    """Refuses a position that means nothing, or something else, on this server.

    PostgreSQL takes a future LSN without a word and leaves out everything before it.

    Raises:
        TimelineChanged: The same system on another timeline.
        ServerChanged: Another system, or a log that ends before the position.
    """
    if stored.system_id != identity.system_id:
        raise ServerChanged(
            f"the stored position is of system {stored.system_id},"
            f" this server is system {identity.system_id}"
        )
    if stored.timeline != identity.timeline:
        raise TimelineChanged(
            f"the stored position is of timeline {stored.timeline}, the server is on"
            f" {identity.timeline}: it was restored or promoted"
        )
    check_not_future(stored.lsn, identity)


def check_not_future(lsn: int, identity: Identity) -> None:
    """Refuses a position that the server has not reached.

    Raises:
        ServerChanged: The log ends before `lsn`.
    """
    if lsn > identity.flushed:
        raise ServerChanged(
            f"the position {lsn_text(lsn)} is ahead of the server's log, which ends at"
            f" {lsn_text(identity.flushed)}: it was restored, or lost log in a crash"
        )


async def begin_alone(conn: Connection, slot: str) -> None:
    """Keeps other readers of this slot from starting until `let_others_begin`, or our end.

    A slot is active only while it streams: without this a second reader would backfill beside us.

    Raises:
        SlotBusy: Another one is starting.
    """
    (ours,) = await fetch_one(conn, f"select pg_try_advisory_lock({_LOCK})", (slot,))
    if not ours:
        raise SlotBusy(f"another reader is starting with slot {slot}")


async def let_others_begin(conn: Connection, slot: str) -> None:
    """From here on the active slot itself keeps others out."""
    await fetch_one(conn, f"select pg_advisory_unlock({_LOCK})", (slot,))


async def slot_state(conn: Connection, slot: str) -> SlotState | None:
    """The slot as the server sees it; None where there is none."""
    row = await fetch_opt(
        conn,
        "select plugin::text, database::text, active_pid, (confirmed_flush_lsn - '0/0')::int8,"
        " coalesce(wal_status, 'unknown'), safe_wal_size, (l - restart_lsn)::int8,"
        " (l - confirmed_flush_lsn)::int8, coalesce((to_jsonb(s) ->> 'failover')::bool, false)"
        " from pg_replication_slots s,"
        " (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()"
        " else pg_current_wal_lsn() end as l) as now where slot_name = %s",
        (slot,),
    )
    if row is None:
        return None
    plugin, database, pid, confirmed, *rest = row
    return SlotState(plugin or "", database or "", pid, confirmed or 0, *rest)


def check_slot(state: SlotState, slot: str, database: str) -> None:
    """Refuses a slot that cannot give our rows.

    Raises:
        SlotLost: Its log is gone.
        SlotForeign: It belongs to another plugin or database.
    """
    if state.wal_status == "lost":
        raise SlotLost(f"slot {slot} was invalidated: its log is gone")
    if state.plugin != "pgoutput" or state.database != database:
        raise SlotForeign(
            f"slot {slot} is for plugin {state.plugin or 'none'} in database"
            f" {state.database or 'none'}"
        )


async def create_slot(
    walsender: Connection, watcher: Connection, slot: str, version: int
) -> CreatedSlot:
    """Makes the slot and exports the snapshot that ends where the slot begins.

    Waits for the transactions that are open (their end is what makes the position consistent), and
    names them meanwhile. The snapshot lives until the walsender's next command.

    Raises:
        SlotBlocked: They stayed open longer than the connection's lock_timeout.
        CdcError: Whatever else PostgreSQL says.
    """
    # Kept on standbys too, where the server can: after a failover reading goes on.
    failover = sql.SQL(", FAILOVER" if version >= FAILOVER_VERSION_MIN else "")
    # The form in parentheses is of version 15.
    options = (
        sql.SQL("EXPORT_SNAPSHOT")
        if version < OPTIONS_VERSION_MIN
        else sql.SQL("(SNAPSHOT 'export'{})").format(failover)
    )
    command = sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {}").format(
        sql.Identifier(slot), options
    )
    creation = asyncio.ensure_future(fetch_one(walsender, command))
    try:
        while not creation.done():
            await asyncio.wait({creation}, timeout=2.0)
            if not creation.done():
                await _name_blockers(watcher, slot)
        row = creation.result()
    except asyncio.CancelledError:
        creation.cancel()
        await asyncio.wait({creation})
        raise
    logger.info("slot_created", extra={"slot": slot, "lsn": row[1]})
    return CreatedSlot(parse_lsn(str(row[1])), row[2])


async def _name_blockers(watcher: Connection, slot: str) -> None:
    rows = await fetch_all(
        watcher,
        "select pid, round(extract(epoch from clock_timestamp() - xact_start)),"
        " split_part(left(query, 40), ' ', 1) || ' ' || split_part(left(query, 40), ' ', 2)"
        " from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()"
        " order by xact_start limit 5",
    )
    for pid, seconds, words in rows:
        logger.warning(
            "slot_waits_for_transaction",
            extra={"slot": slot, "pid": pid, "open_seconds": int(seconds or 0), "query": words},
        )


async def drop_slot(conn: Connection, slot: str) -> None:
    """Drops the slot, which must not be active."""
    await fetch_one(conn, "select pg_drop_replication_slot(%s)", (slot,))
    logger.warning("slot_dropped", extra={"slot": slot})
