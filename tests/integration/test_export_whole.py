"""An export that is broken off leaves no file that looks like one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops import export
from ops.config import Config
from ops.errors import OpsError
from ops.stack import Stack
from tests.streaming import database, stream_stack

__all__ = ["stream_stack"]

pytestmark = pytest.mark.timeout(120)

DAY = {"since": "2024-03-04", "until": "2024-03-05"}
ROWS = """
INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, termination)
SELECT 'call-' || n, 'f', 't', 'a', 'b', timestamp '2024-03-04' + n * interval '1 s', 'C'
FROM generate_series(1, 20000) AS n
"""


def test_a_database_that_ends_in_the_midst_costs_no_file(
    stream_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cdrs.csv"
    out.write_text("of yesterday")
    with database(stream_stack.sink) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ROWS)
        config = Config.model_validate({"sink": {"dsn": dsn}})
        real = export.as_text
        told = 0

        def as_text(value: Any) -> str:
            nonlocal told
            told += 1
            if told == 50_000:  # some thousand rows have been written
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            return real(value)

        options: dict[str, Any] = {**DAY, "form": "csv", "every_column": False, "raw": False}
        monkeypatch.setattr(export, "as_text", as_text)
        with pytest.raises(psycopg.OperationalError):
            export.run(config, out=str(out), **options)
        assert out.read_text() == "of yesterday"
        monkeypatch.setattr(export, "as_text", real)
        export.run(config, out=str(out), **options)
        assert len(out.read_text().splitlines()) == 20_001
    assert [path.name for path in tmp_path.iterdir()] == ["cdrs.csv"]


def test_a_range_that_is_not_all_told_is_said_to_be(
    stream_stack: Stack,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {**DAY, "form": "csv", "every_column": False, "raw": False}
    with database(stream_stack.sink) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        config = Config.model_validate({"sink": {"dsn": dsn}})

        def told(**more: Any) -> str:
            export.run(config, out=str(tmp_path / "cdrs.csv"), **options, **more)
            return capsys.readouterr().err

        assert "whether that is all cannot be told: not all partitions" in told()
        connection.execute(
            "INSERT INTO sink_progress (topic, partition, epoch, next_offset, holder, watermark)"
            " VALUES ('e', 0, 1, 0, 'w', '2024-03-04 20:00:00Z'),"
            " ('e', 1, 1, 0, 'w', '2024-03-06 00:00:00Z'), ('references', 1, 1, 0, 'w', NULL)"
        )
        assert "ended after 2024-03-04T20:00:00.000000Z may be missing" in told()
        connection.execute("UPDATE sink_progress SET watermark = '2024-03-05' WHERE topic = 'e'")
        assert told() == "0 CDRs\n"

        # What the watermark says when the rows were read counts, not what it says behind them.
        connection.execute("UPDATE sink_progress SET watermark = '2024-03-04' WHERE topic = 'e'")
        real = export.rows

        def rows(*asked: Any) -> Iterator[tuple[Any, ...]]:
            yield from real(*asked)
            connection.execute("UPDATE sink_progress SET watermark = '2024-03-06'")

        monkeypatch.setattr(export, "rows", rows)
        assert "ended after 2024-03-04T00:00:00.000000Z may be missing" in told()
        monkeypatch.setattr(export, "rows", real)
        assert told(exit_code=True) == "0 CDRs\n"
        connection.execute("DROP TABLE sink_progress")
        with pytest.raises(OpsError, match="cannot be told: relation"):
            told(exit_code=True)
        assert "cannot be told: relation" in told()
