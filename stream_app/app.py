"""The Faust app: one agent over the two topics, one table, and our transport.

Owns Faust's settings, each that matters with its reason. Refuses to know what is done with a batch
(`assignment`), and processes and signals (`worker`).
"""

from __future__ import annotations

import logging
from typing import Any, Final, cast

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

from stream_app.assignment import Assignment
from stream_app.batches import BatchSchema, BatchTransport, ReadyTopic
from stream_app.settings import WorkerSettings, faust_broker, faust_credentials
from stream_app.table import (
    CallTables,
    OpenCallsTable,
    OwnTableManager,
    PartitionedStore,
    make_tables,
)

log = logging.getLogger(__name__)

TABLE_NAME: Final = "open_calls"
_NEVER_SECONDS: Final = 86_400.0  # of limits that another part of ours watches


class CdrApp(faust.App):
    """Faust's app with what our transport and table ask of it.

    `assignment` is set before the app starts; it is the consumer's `intake` too.
    """

    assignment: Assignment
    open_calls: OpenCallsTable
    call_tables: CallTables

    def _create_directories(self) -> None:
        """None: the table's place is `call_tables`' own, and folders would be left over."""

    @property
    def intake(self) -> Assignment:
        """Whom the consumer asks for room and positions."""
        return self.assignment

    @property
    def store(self) -> PartitionedStore:
        """The calls of all our partitions."""
        return cast(PartitionedStore, self.open_calls.data)

    async def read_from(self, topic: str, partition: int, offset: int) -> None:
        """Goes on reading a partition there, unless a rebalance takes it: its end does that."""
        try:
            await self.consumer.seek_wait({TP(topic, partition): offset})
        except (KafkaError, TimeoutError) as error:
            log.info("seek_left", extra={"topic": topic, "partition": partition, "why": str(error)})

    def end_offset(self, topic: str, partition: int) -> int | None:
        """Where a partition's log ends, as of the last fetch; None where that is unknown."""
        try:
            end = self.consumer.highwater(TP(topic, partition))
        except Exception:  # noqa: BLE001  not assigned, not started: unknown either way
            return None
        return None if end is None else int(end)


def make_app(settings: WorkerSettings) -> CdrApp:
    """The app, complete but for its `assignment`; nothing is connected yet."""
    app = CdrApp(
        settings.group_id,
        broker=faust_broker(settings),
        broker_credentials=faust_credentials(settings),
        broker_client_id=settings.worker_id,
        store="memory://",
        topic_partitions=settings.partitions,
        topic_disable_leader=True,  # one topic less: nothing here has a leader
        autodiscover=False,
        web_enabled=False,  # it would listen on 0.0.0.0:6066 and serve the table
        # Only names a member; workers of one machine must not share it.
        canonical_url=f"http://{settings.worker_id}.invalid",
        TableManager=OwnTableManager,
        Topic=ReadyTopic,
        processing_guarantee="at_least_once",
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=settings.batch_records_max,
        consumer_max_fetch_size=4 * 1024 * 1024,
        broker_commit_interval=settings.commit_interval_seconds,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=settings.heartbeat_interval_seconds,
        broker_rebalance_timeout=settings.rebalance_timeout_seconds,
        broker_request_timeout=max(30.0, settings.session_timeout_seconds + 5.0),
        # A sink that is away for hours must not cost the partitions: `watchdog` judges stalls.
        broker_max_poll_interval=_NEVER_SECONDS,
        stream_processing_timeout=_NEVER_SECONDS,
        broker_commit_livelock_soft_timeout=_NEVER_SECONDS,
        stream_wait_empty=False,  # it waits for ever while the sink is away; we drain, bounded
        stream_recovery_delay=0.0,
        table_standby_replicas=0,  # nobody reads them: `changelog.restore` reads what is taken
        stream_buffer_maxsize=4_096,  # messages are batches here; `Room` bounds their records
        worker_redirect_stdouts=False,
    )
    app.call_tables = make_tables(settings)
    app.transport = BatchTransport([app.conf.broker[0]], app)
    app.transport.url = list(app.conf.broker)
    app.open_calls = OpenCallsTable(
        app,
        name=TABLE_NAME,
        key_type=bytes,
        value_type=bytes,
        partitions=settings.partitions,
    )
    app.tables.add(app.open_calls)
    _add_agent(app, settings)
    return app


def _add_agent(app: CdrApp, settings: WorkerSettings) -> None:
    """Who takes the batches off the two topics."""
    topic = app.topic(
        settings.events_topic,
        settings.references_topic,
        schema=BatchSchema(key_type=bytes, value_type=bytes),
    )

    @app.agent(topic, name="resolve_calls")
    async def resolve_calls(stream: Any) -> None:
        """Hands batches on and acknowledges nothing: `Commits` does when they are durable."""
        async for event in stream.noack().events():
            message = event.message
            try:
                app.assignment.take(
                    message.generation_id, message.topic, message.partition, event.value, event
                )
            except Exception as error:
                # Faust would restart the agent and go on behind the batch.
                await app.crash(error)
                raise
