"""What can go wrong in the stream app, each with how to retry and one line of advice.

Owns the kinds of failure and their advice. Refuses to know who logs them.
"""

from __future__ import annotations

from enum import StrEnum

from callstate.postgres_words import advice_for


class Retry(StrEnum):
    """How an error is got over."""

    TIMED = "timed"  # by itself: the same again after a pause
    MANUAL = "manual"  # when somebody has changed something
    NEVER = "never"  # not in this process; a restart takes up from what is committed


class StreamAppError(Exception):
    """Base of the package's errors; `advice` is one line for the operator."""

    retry: Retry = Retry.NEVER
    advice: str = "restart the worker; it resumes from what is committed"

    def __init__(self, message: str, advice: str | None = None) -> None:
        super().__init__(message)
        if advice is not None:
            self.advice = advice


class SettingsError(StreamAppError):
    """A setting that cannot be used."""

    retry = Retry.MANUAL
    advice = "correct the setting and start again"


class SchemaError(StreamAppError):
    """The database is not a SIPXCDR that can be used or upgraded."""

    retry = Retry.MANUAL
    advice = "point the DSN at a SIPXCDR of schema version 7, or at an empty database"


class TopicError(StreamAppError):
    """A topic is missing or has another number of partitions than it must have."""

    retry = Retry.MANUAL
    advice = "run `cdrstream provision`, or set kafka.partitions to what the topic has"


class SinkUnavailable(StreamAppError):
    """The sink's database cannot be written to now; nothing is lost, nothing is acknowledged."""

    retry = Retry.TIMED
    advice = "events wait in Kafka; bring the sink's PostgreSQL back"


def way_into_sink(text: str) -> str | None:
    """Advice where the sink is there and does not let us in; None where it is just away."""
    advice = advice_for(text, "sink.dsn")
    return f"{advice}; events wait in Kafka, and the worker goes on by itself" if advice else None


class SinkRefused(StreamAppError):
    """The sink's database answers but refuses our statements: rights or tables are missing."""

    retry = Retry.MANUAL
    advice = "run `cdrstream provision` for tables and rights; the worker goes on by itself"


class BrokerUnavailable(StreamAppError):
    """Kafka did not acknowledge in time."""

    retry = Retry.TIMED
    advice = "check the broker; the worker goes on by itself"


class ProducerEnded(StreamAppError):
    """Kafka's client cannot keep the order of records any more: the broker has lost some of ours.

    A topic was made anew under us, or a broker came back without what it had acknowledged.
    """

    retry = Retry.NEVER
    advice = "the supervisor restarts the worker, which takes up from what is committed"


class PartitionLost(StreamAppError):
    """Another worker has taken the partition: this one's epoch is over."""

    retry = Retry.NEVER
    advice = "nothing to do: the other worker has the partition"


class LogShortened(StreamAppError):
    """A topic ends before what was read of it: it was made anew, or has lost its end."""

    retry = Retry.NEVER
    advice = "the supervisor restarts the worker, which reads that topic from its beginning"


class TopicUnseen(StreamAppError):
    """Partitions were assigned without one of the topics that are read together.

    Faust leaves out a topic of which its client knows nothing at that moment, and does not look
    again: one that was just made anew would never be read.
    """

    retry = Retry.NEVER
    advice = "the supervisor restarts the worker, which waits for the topic"


class Stalled(StreamAppError):
    """Partitions do not move though records wait."""

    retry = Retry.NEVER
    advice = "the supervisor restarts the worker; if it comes again look at the partition's log"
