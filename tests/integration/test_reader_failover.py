"""A standby that kept the reader's slot takes the place of a primary that died."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress

import pytest

from cdc.errors import ServerInRecovery
from ops.stack import PostgresServer, ServerSpec, Stack
from tests.reader_kit import INSERT, Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)

VERSIONS = ("17", "18")


def copy_if_there(source: str, target: str) -> None:
    """As base backups do: a file that goes while the server is copied is none that is needed."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


class Standby(PostgresServer):
    """A server whose data are a copy of a running primary's, and that follows it."""

    primary: PostgresServer

    def _initdb(self) -> None:
        source, owner = self.primary.data, self.primary.data.stat()
        keep_out = shutil.ignore_patterns("postmaster.*", "pg_replslot", "pg_wal")
        with self.primary.connect() as conn:
            conn.execute("select pg_create_physical_replication_slot('standby', true)")
            conn.execute("select pg_backup_start('standby', true)")
            shutil.copytree(source, self.data, ignore=keep_out, copy_function=copy_if_there)
            (label,) = conn.execute("select labelfile from pg_backup_stop(false)").fetchone() or (
                "",
            )
        shutil.copytree(source / "pg_wal", self.data / "pg_wal", copy_function=copy_if_there)
        (self.data / "pg_replslot").mkdir()
        (self.data / "backup_label").write_text(label)
        (self.data / "standby.signal").touch()
        for path in [self.data, *self.data.rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid)
            path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.fixture(params=VERSIONS)
def primary(
    stack: Stack, extra_server: Callable[..., PostgresServer], request: pytest.FixtureRequest
) -> PostgresServer:
    return extra_server(version=request.param)


def follow(primary: PostgresServer, bed: Bed) -> Standby:
    settings = {
        "primary_conninfo": primary.dsn_for(bed.name),
        "primary_slot_name": "standby",
        "hot_standby_feedback": "on",
        "sync_replication_slots": "on",
    }
    spec = ServerSpec(f"{primary.name}-standby", version=primary.major, settings=settings)
    standby = Standby(spec, primary._binaries, bed.stack.folder, primary._account)
    standby.primary = primary
    standby.create()
    standby.start()
    with primary.connect() as conn:
        # the primary shows us nothing that the standby does not have
        conn.execute("alter system set synchronized_standby_slots = 'standby'")
        conn.execute("select pg_reload_conf()")
    return standby


async def test_reading_goes_on_at_the_promoted_standby(
    stack: Stack, primary: PostgresServer
) -> None:
    bed = Bed(stack, primary.name)
    bed.provision()
    slot = bed.settings().slot_name
    # A standby that finds no slot looks again after longer and longer: up to half a minute.
    async with bed.reading() as reader:
        await streaming(reader)
    standby = follow(primary, bed)
    try:
        alone = bed.settings(dsn=standby.dsn_for(bed.name))
        async with bed.reading(alone) as waiting:
            await until(lambda: isinstance(waiting.last_error, ServerInRecovery))
        dsn = (
            f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} dbname={bed.name}"
            " user=postgres target_session_attrs=primary"
        )
        async with bed.reading(bed.settings(dsn=dsn)) as reader:
            await streaming(reader)
            bed.insert(100)
            await all_arrived(bed)

            def kept() -> bool:
                bed.insert(1)  # progress is what makes a synchronised slot ready
                with standby.connect() as conn:
                    row = conn.execute(
                        "select synced and not temporary from pg_replication_slots"
                        " where slot_name = %s",
                        (slot,),
                    ).fetchone()
                return bool(row and row[0])

            await until(kept, 300, "the standby keeps the slot")
            before = set(await all_arrived(bed))
            with bed.load() as load:  # it dies in the middle of writing and reading
                await until(lambda: load.committed > 500)
                await until(lambda: len(bed.event_ids()) > len(before) + 200)
                primary.kill()
                load.stop()
            await until(lambda: reader.state == "retrying")
            with standby.connect() as conn:
                conn.execute("select pg_promote()")
            with standby.connect(bed.name) as conn:
                survived = {row[0] for row in conn.execute("select id from call_state_events")}
                conn.execute(INSERT, (50,))
                ids = {row[0] for row in conn.execute("select id from call_state_events")}
            assert before < survived
            assert len(ids - survived) == 50
            await streaming(reader)
            await until(lambda: ids <= set(bed.event_ids()), what="rows of the new primary")
        # None is lost, and none came of what died with the primary.
        assert set(bed.event_ids()) == ids
        assert reader.metrics.gaps_total == 0
    finally:
        standby.stop("immediate")
