"""What the publication carries of our tables, and whether it is still the same one.

Owns the check that START_REPLICATION does not make. Refuses to decide what follows from a change:
`starting` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc.connect import Connection
from cdc.errors import PublicationMissing
from cdc.queries import fetch_all
from cdc.settings import CALL_TABLE, OBSERVER_TABLE

# A view's columns differ by version: a row filter (15 and newer) is looked for by name. Only the
# publication's and the membership's own identities tell that something was taken out and put back.
_PUBLISHED = """
select p.pubinsert, p.oid::text || '.' || p.xmin::text, t.tablename::text,
    c.oid = to_regclass(t.tablename::text)::oid, c.oid::text || '.' || coalesce(r.oid, 0)::text,
    to_jsonb(t) ->> 'rowfilter'
from pg_publication p
left join pg_publication_tables t using (pubname)
left join pg_namespace n on n.nspname = t.schemaname
left join pg_class c on c.relname = t.tablename and c.relnamespace = n.oid
left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
where p.pubname = %s
"""
_IS_THERE = "select to_regclass(%s) is not null"


@dataclass(frozen=True, slots=True)
class Published:
    """What is published of ours.

    Attributes:
        tables: Names, the call events' table first.
        coverage: Identity of the publication, of these tables and of their membership. Rows
            written while a table was out of it never reach the stream, and nothing else says so.
        oids: Identities of these tables. Those of other schemas may have the same names.
    """

    tables: tuple[str, ...]
    coverage: str
    oids: frozenset[int]


async def check_publication(conn: Connection, publication: str) -> Published:
    """Looks the publication over.

    A missing one lets START succeed, and then the first change of any table fails; a table that
    was dropped and made again is silently not published: so this is asked again while running.

    Raises:
        PublicationMissing: It does not exist, lacks a table or some of its rows, or does not
            publish inserts.
    """
    rows = await fetch_all(conn, _PUBLISHED, (publication,))
    if not rows:
        raise PublicationMissing(f"publication {publication} does not exist")
    if not rows[0][0]:
        raise PublicationMissing(f"publication {publication} does not publish inserts")
    ours = {row[2]: row for row in rows if row[3] and row[2] in (CALL_TABLE, OBSERVER_TABLE)}
    if CALL_TABLE not in ours:
        raise PublicationMissing(f"publication {publication} lacks table {CALL_TABLE}")
    if OBSERVER_TABLE not in ours:
        (there,) = (await fetch_all(conn, _IS_THERE, (OBSERVER_TABLE,)))[0]
        if there:
            raise PublicationMissing(f"publication {publication} lacks table {OBSERVER_TABLE}")
    for table, row in ours.items():
        if row[5] is not None:
            raise PublicationMissing(
                f"publication {publication} leaves out rows of {table}: WHERE {row[5]}"
            )
    tables = tuple(table for table in (CALL_TABLE, OBSERVER_TABLE) if table in ours)
    members = ",".join(ours[table][4] for table in tables)
    oids = frozenset(int(ours[table][4].partition(".")[0]) for table in tables)
    return Published(tables, f"{rows[0][1]}:{members}", oids)
