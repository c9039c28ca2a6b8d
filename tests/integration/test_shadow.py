"""Shadow mode: ours in a schema beside an old resolver's `cdrs`, and how the two differ."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from ops.stack import Stack
from tests.calls import iso
from tests.cli_kit import admins, cdrstream, service, until, write_config
from tests.streaming import call_rows

pytestmark = pytest.mark.timeout(600)

SHADOW = ("--set", "sink.schema=shadow")
CALLS = ("same@h", "later@h", "lost@h", "failed@h", "twice@h")
OLD = (
    "INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, connect_time,"
    " end_time, termination, caller_internal, caller_contact, callee_contact)"
    " VALUES (%s, 'f', %s, '<sip:a@example.com>', '<sip:b@example.com>', %s, %s, %s, %s, %s,"
    " '<sip:a@10.0.0.1>', '<sip:b@10.0.0.2>')"
)


def put_events(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Each call rings for 2 s and lasts 10; afterwards there is nothing but time."""
    for number, name in enumerate(CALLS):
        for row in call_rows(name, 20 * number):
            names = [column for column in row if column != "id"]
            holes = ", ".join(f"%({column})s" for column in names)
            connection.execute(
                f"INSERT INTO call_state_events ({', '.join(names)}) VALUES ({holes})".encode(), row
            )


def put_old_cdrs(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """What an old resolver might have made of them."""

    def old(name: str, number: float, tag: str = "t", *, end: float = 12, how: str = "C") -> None:
        at = 20 * number
        connection.execute(OLD, (name, tag, iso(at), iso(at + 2), iso(at + end), how, None))

    old("same@h", 0)
    old("later@h", 1, end=75)
    old("failed@h", 3, tag="1", how="F")
    connection.execute("ALTER TABLE cdrs DROP CONSTRAINT cdrs_call_id_key")
    old("twice@h", 4)
    old("twice@h", 4, tag="u")
    old("unknown@h", 1.5)


def test_ours_stand_beside_the_old_ones_and_every_difference_is_classed(tmp_path: Path) -> None:
    with Stack(1) as stack:
        config = write_config(tmp_path / "shadow.toml", stack, stack.servers)
        for _ in range(2):  # the first one makes the tables of an old SIPXCDR as well
            done = cdrstream("provision", *SHADOW, *admins(stack.servers), config=config)
            assert done.returncode == 0, done.stdout + done.stderr
        assert "may read the old resolver's cdrs" in done.stdout
        early = cdrstream("compare-old", *SHADOW, config=config)
        assert (early.returncode, early.stdout) == (1, "")
        assert "our side holds no CDRs yet" in early.stderr
        with stack["a"].connect() as a:
            put_events(a)
            with (
                service("reader", *SHADOW, config=config, log=tmp_path / "reader.log"),
                service("worker", *SHADOW, config=config, log=tmp_path / "worker.log"),
            ):
                until(
                    lambda: (
                        a.execute("SELECT count(*) FROM shadow.cdrs").fetchone() == (len(CALLS),)
                    )
                )
            assert a.execute("SELECT count(*) FROM public.cdrs").fetchone() == (0,)
            put_old_cdrs(a)
        diff = tmp_path / "diff.jsonl"
        told = cdrstream(
            "compare-old", *SHADOW, "--json", "--diff", str(diff), "--exit-code", config=config
        )
        assert (told.returncode, bool(told.stdout)) == (1, True), told.stderr
        figures = json.loads(told.stdout)
        assert figures["columns"] == {"end_time": 1, "termination": 1, "to_tag": 1}
        assert figures["kinds"] == {
            "only_old": 1,
            "only_new": 1,
            "duplicate_in_old": 1,
            "termination": 1,
            "times": 1,
            "parties": 0,
            "other_columns": 0,
            "same": 1,
        }
        assert figures["shifts"]["<= 1 h"] == 1
        assert figures["billed"] == {
            "old_seconds": 10 + 73 + 10 + 20 + 10,
            "new_seconds": 50,
            "old_minutes": 1 + 2 + 1 + 2 + 1,
            "new_minutes": 5,
            "calls_seconds_differ": 4,
            "calls_minutes_differ": 4,
        }
        lines = {line["call_id"]: line for line in map(json.loads, diff.read_text().splitlines())}
        assert set(lines) == {*CALLS, "unknown@h"} - {"same@h"}
        assert lines["later@h"]["shifts_seconds"] == {"end_time": -63.0}
        assert lines["unknown@h"]["reasons"] == ["we have seen no event of this call"]
        page = cdrstream("compare-old", *SHADOW, config=config)
        assert page.returncode == 0, page.stderr
        assert "only the old resolver has it" in page.stdout
        assert "  cdrstream explain failed@h" in page.stdout
        assert max(map(len, page.stdout.splitlines())) <= 100
        wrong = cdrstream("compare-old", config=config)
        assert wrong.returncode == 2
        assert "both sides are schema public" in wrong.stderr
