"""The command `ingest`: call state events from files onto the event topic.

Owns delivery, progress, and what happens to bad rows. Records are the reader's own (`file_events`
makes them), so that everything behind the topic treats them alike: identity is (server, id), and a
file that is ingested twice changes nothing. Refuses to tell anyone how far a server has got: rows
of files are late events.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from confluent_kafka import KafkaError, KafkaException, Producer

from callstate.envelope import EVENT
from callstate.topics import dead_letter_topic
from cdc.publisher import headers, producer_options
from ops import row_files
from ops.errors import OpsError, UsageError
from ops.file_events import FORMS, Bad, Counted, Good, IngestOptions, records
from ops.offsets import partitions_of
from ops.row_files import STDIN, RowFile

_TELL_SECONDS: Final = 10.0
_POLL_ROWS: Final = 500
_FLUSH_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 10.0
_RAW_BYTES_MAX: Final = 500_000


class Ingestion:
    """One run: rows of some files into Kafka, until all of them are acknowledged."""

    def __init__(self, kafka: Mapping[str, object], topic: str, options: IngestOptions) -> None:
        self._options = options
        self._topic = topic
        self._dead = dead_letter_topic(topic)
        self._failure: str | None = None
        self._headers: dict[str, Any] = {}
        self._told_at = time.monotonic()
        self.counted = Counted()
        self._producer = Producer(
            {
                **producer_options(kafka),
                "client.id": "cdrstream-ingest",
                "message.timeout.ms": 120_000,  # a person is waiting
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 64 * 1024,
                "log_level": 0,
            }
        )

    def run(self, files: Iterable[RowFile]) -> Counted:
        """Sends everything.

        Raises:
            OpsError: Kafka did not take it; running again is safe.
            UsageError: A file is none of the forms.
        """
        self._find_topics()
        for file in files:
            name = "standard input" if file.path == STDIN else file.path
            for n, record in enumerate(
                records(row_files.lines(file), self._options, self.counted), 1
            ):
                if isinstance(record, Bad):
                    self._dead_letter(record, f"{file.path}:{record.line}")
                else:
                    self._send(record, file.path)
                if n % _POLL_ROWS == 0:
                    self._producer.poll(0)
                    self._tell(name)
                if self._failure is not None:
                    self._fail()
        left = self._flush()
        if self._failure is not None or left:
            self._failure = self._failure or f"{left} records were not acknowledged"
            self._fail()
        return self.counted

    def _find_topics(self) -> None:
        for topic in (self._topic, self._dead):
            try:
                there = partitions_of(self._producer, topic, _CONNECT_SECONDS)
            except KafkaException as error:
                self._failure = error.args[0].str()
                self._fail()
            if not there:
                raise OpsError(f"there is no topic {topic}", "run `cdrstream provision`")

    def _flush(self) -> int:
        deadline = time.monotonic() + _FLUSH_SECONDS
        while (left := self._producer.flush(0.5)) and self._failure is None:
            if time.monotonic() > deadline:
                break
        return left

    def _send(self, record: Good, source: str) -> None:
        kept = self._headers.get(record.server)
        if kept is None:
            kept = self._headers[record.server] = headers(EVENT, record.server)

        def report(error: KafkaError | None, _message: Any) -> None:
            if error is None:
                self.counted.acknowledged += 1
            elif error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD):
                self._dead_letter(Bad(error.str(), record.value, 0), source)
            else:
                self._failure = error.str()

        self.counted.sent += 1
        self._produce(self._topic, record.value, record.key, report, kept)

    def _dead_letter(self, bad: Bad, source: str) -> None:
        self.counted.bad += 1
        if self.counted.bad <= 10:
            sys.stderr.write(f"{source}: {bad.reason}\n")
        told: list[tuple[str, str | bytes | None]] = [
            ("reason", bad.reason.encode("utf-8", "replace")),
            ("source", source.encode("utf-8", "replace")),
        ]

        def report(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                self._failure = error.str()

        kept = [*headers(EVENT, self._options.server), *told]
        self._produce(self._dead, bad.raw[:_RAW_BYTES_MAX], self._options.server, report, kept)

    def _produce(self, topic: str, value: bytes, key: str, report: Any, headers_: Any) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=report, headers=headers_)
            except BufferError:
                self._producer.poll(0.1)
                if self._failure is not None:
                    self._fail()
            except KafkaException as error:
                report(error.args[0], None)
                return
            else:
                return

    def _tell(self, name: str) -> None:
        terminal = sys.stderr.isatty()
        now = time.monotonic()
        if now - self._told_at < (0.2 if terminal else _TELL_SECONDS):
            return
        self._told_at = now
        text = f"{name}: {self.counted.acknowledged} rows, {self.counted.bad} bad"
        sys.stderr.write(f"\r{text}\x1b[K" if terminal else text + "\n")

    def _fail(self) -> NoReturn:
        raise OpsError(
            f"Kafka did not take the rows: {self._failure}",
            "run it again when that is mended: rows that are there already change nothing",
        )


def run(
    kafka: Mapping[str, object],
    topic: str,
    inputs: Iterable[str],
    options: IngestOptions,
    *,
    strict: bool,
) -> None:
    """Ingests files and says what became of their rows.

    Raises:
        OpsError: Kafka did not take them, or with `strict` some were dead letters.
        UsageError: No such file, or none of the forms.
    """
    files: list[RowFile] = []
    for given in inputs:
        if given != STDIN and not Path(given).exists():
            raise UsageError(f"{given}: no such file")
        files.extend(row_files.row_files([given]))
    if options.form not in FORMS:
        raise UsageError(f"--format {options.form}: must be one of {', '.join(FORMS)}")
    ingestion = Ingestion(kafka, topic, options)
    counted = ingestion.run(files)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    sys.stderr.write(f"{counted.acknowledged} rows on {topic}")
    if counted.bad:
        sys.stderr.write(f"; {counted.bad} bad rows on {dead_letter_topic(topic)}")
    if counted.skipped:
        sys.stderr.write(f"; {counted.skipped} heartbeats and gaps left out")
    sys.stderr.write("\n")
    if strict and counted.bad:
        raise OpsError(f"{counted.bad} rows were bad", "the dead letters say which and why")
