"""What an apply or undo has changed, told on the topic of revisions as the workers tell theirs.

Owns which calls are told, and that it is done at last. Refuses to swap anything, and to know the
record's shape: `stream_app.cdr_stream`.

The swap is durable first, with a mark that it is not told yet (`cdr_replays.told_at`); the mark
goes when Kafka has acknowledged the last revision. So a kill at any point leaves either nothing or
a mark, and whoever resumes tells all of it again. What is told is a call as the table holds it at
that moment, with the number of the newest swap of that moment: a listener that keeps the highest
revision ends with what the table holds, whatever is told late, twice or by somebody else meanwhile.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError
from psycopg.rows import dict_row

from ops.config import worker_settings
from ops.errors import OpsError
from ops.replay import registry
from ops.replay.comparing import record
from ops.replay.shadow import Connection
from ops.topics import TIMEOUT_SECONDS, speaking_to
from stream_app.cdr_stream import revision_record, told_revision
from stream_app.changelog import Outbox, OutRecord, client_log
from stream_app.errors import StreamAppError

if TYPE_CHECKING:
    from ops.config import Config
    from ops.config_kafka import Kafka

CALLS_AT_ONCE: Final = 2_000

# The number of the newest swap and the calls come from one statement: they are of one moment.
_HELD: Final = """
WITH kept AS (
    SELECT id, call_id, provenance, taken_back FROM cdr_history AS one
    WHERE replay_id = %(replay)s AND id > %(after)s
      AND NOT EXISTS (SELECT FROM cdr_history AS newer
        WHERE newer.call_id = one.call_id AND newer.replay_id = one.replay_id AND newer.id > one.id)
    ORDER BY id LIMIT %(calls)s
)
SELECT kept.id, kept.call_id, to_jsonb(cdrs) AS cdr, why.revision, why.hidden_reason, why.rule,
    why.suspect, (extract(epoch FROM why.watermark) * 1000000)::int8 AS watermark_us,
    (SELECT max(swap) FROM cdr_replays) AS swap,
    -- What undo has put back still tells how it once came to be, not what undo has changed.
    CASE WHEN kept.taken_back IS NOT NULL
        AND why.revision IS NOT DISTINCT FROM (kept.provenance->>'revision')::int8
        AND why.replay_id IS NOT DISTINCT FROM (kept.provenance->>'replay_id')::int8
        THEN kept.taken_back ELSE why.changed END AS changed
FROM kept LEFT JOIN cdrs USING (call_id) LEFT JOIN cdr_provenance AS why USING (call_id)
ORDER BY kept.id
"""


class _EveryRecord(Outbox):
    """Leaves none out. A worker must go on beside a record that is too large; here nobody waits."""

    def _refused(
        self, error: KafkaError, topic: str, key: bytes | None, value: bytes | None
    ) -> None:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            self._errors.append(f"{topic}: {error.str()}; raise its max.message.bytes")
        else:
            super()._refused(error, topic, key, value)


def demand_listeners_way(kafka: Kafka, topic: str) -> None:
    """Returns when revisions can be told: asked before anything is swapped.

    Raises:
        OpsError: The broker is away, there is no such topic, or this user may not write to it.
    """
    from confluent_kafka import KafkaException, TopicCollection  # noqa: PLC0415
    from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]  # noqa: PLC0415

    with speaking_to(kafka) as admin:
        asked = admin.describe_topics(
            TopicCollection([topic]),
            include_authorized_operations=True,
            request_timeout=TIMEOUT_SECONDS,
        )
        try:
            described = asked[topic].result(TIMEOUT_SECONDS)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise OpsError(
                    f"there is no topic {topic}: nobody could be told of what changes",
                    "cdrstream provision; without listeners set worker.cdr_stream = false",
                ) from error
            if code != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            allowed: Any = ()
        else:
            allowed = described.authorized_operations or ()
    if AclOperation.WRITE not in allowed:
        raise OpsError(
            f"this user may not write to topic {topic}: nobody could be told of what changes",
            "give it the right: cdrstream acls --apply",
        )


def tell(connection: Connection, config: Config, replay_id: int) -> int:
    """Tells all that a replay has swapped; the mark that it is untold goes at the end.

    Returns:
        How many revisions were told.

    Raises:
        OpsError: Kafka does not take them. The mark stays: do the same again.
        psycopg.Error: The database is away. The mark stays.
    """
    settings = worker_settings(config)
    client_log.setLevel(logging.CRITICAL)  # what is wrong is said in one line, by the error
    outbox = _EveryRecord(dataclasses.replace(settings, worker_id=f"cdrstream-replay-{replay_id}"))
    told = 0
    try:
        for records in _held_now(connection, settings.cdrs_topic, replay_id):
            told += outbox.send(records)
    except StreamAppError as error:
        raise OpsError(
            f"the CDRs are swapped, but not all who listen to {settings.cdrs_topic} know: {error}",
            f"when Kafka is back: cdrstream replay --resume {replay_id}",
        ) from error
    finally:
        outbox.close()
    registry.note_told(connection, replay_id)
    return told


def _held_now(connection: Connection, topic: str, replay_id: int) -> Iterator[list[OutRecord]]:
    after = 0
    with connection.cursor(row_factory=dict_row) as cursor:
        while True:
            asked = {"replay": replay_id, "after": after, "calls": CALLS_AT_ONCE}
            rows = cursor.execute(_HELD, asked).fetchall()
            if not rows:
                return
            after = rows[-1]["id"]
            yield [_revision(topic, row) for row in rows]


def _revision(topic: str, row: Mapping[str, Any]) -> OutRecord:
    cdr = record(row["cdr"])
    hidden = row["hidden_reason"] or "there was no record of it before the replay"
    return revision_record(
        topic,
        row["call_id"],
        told_revision(row["swap"] or 0, row["revision"] or 0),
        cdr,
        hidden=hidden if cdr is None else None,
        rule=row["rule"],
        changed=row["changed"] or {},
        suspect=bool(row["suspect"]),
        watermark_us=row["watermark_us"],
    )
