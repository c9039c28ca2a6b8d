"""Doctor's judgements of facts, the running of its checks, and its report."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

import pytest

from cdc.position_store import StoredPosition
from cdc.slot import Identity
from ops.config_kafka import Kafka
from ops.config_sources import load
from ops.doctor import broker, clocks, command, processes, server_slot, server_tables, servers, sink
from ops.doctor.checks import Check, Finding, Outcome, fail, ok, run_all, warn, worst
from ops.doctor.clocks import Measured
from ops.doctor.server_facts import ServerFacts
from ops.doctor.sink import SinkFacts
from ops.topics import TopicState, required

SERVER = {
    "version_num": 150_018, "version": "15.18", "wal_level": "logical", "slots_max": 10,
    "slots_used": 1, "senders_max": 10, "senders_used": 1, "slot_wal_keep_size": "20GB",
    "may_replicate": True, "role": "r", "database": "SIPXCDR", "encoding": "UTF8",
    "same_machine": True, "tls": False, "in_recovery": False, "idle_slot_timeout": None,
}  # fmt: skip
SLOT = {
    "plugin": "pgoutput", "database": "SIPXCDR", "active": True, "wal_status": "reserved",
    "safe_wal_size": None, "slot_type": "logical", "retained_bytes": 10, "unread_bytes": 0,
}  # fmt: skip
PUBLICATION = {
    "pubinsert": True, "pubupdate": False, "pubdelete": False, "pubtruncate": False,
    "tables": ["call_state_events", "observer_state_events"],
}  # fmt: skip
FACTS = ServerFacts(
    server=SERVER,
    publication=PUBLICATION,
    columns=server_tables.SCHEMA_7,
    readable=dict.fromkeys(server_tables.TABLES, True),
    slot=SLOT,
    oldest_transaction={"seconds": 1.0, "may_look": True},
)
CHECKS = {
    "version": servers.version,
    "rights": lambda facts: server_tables.rights("a", facts),
    "settings": servers.settings,
    "tables": lambda facts: server_tables.tables(facts, backfill=False),
    "publication": lambda facts: server_tables.publication("a", "cdrstream", facts),
    "slot": lambda facts: server_slot.slot("a", "cdrstream_a", facts),
    "load": servers.load,
}


def outcome(findings: list[Finding]) -> Outcome:
    return worst(finding.outcome for finding in findings)


@pytest.mark.parametrize("name", CHECKS)
def test_a_server_as_it_should_be_is_in_order(name):
    assert outcome(CHECKS[name](FACTS)) is Outcome.OK


def with_server(**more: object) -> ServerFacts:
    return replace(FACTS, server=SERVER | more)


def with_columns(table: str, **more: str | None) -> ServerFacts:
    columns = {name: dict(told) for name, told in server_tables.SCHEMA_7.items()}
    for column, kind in more.items():
        if kind is None:
            del columns[table][column]
        else:
            columns[table][column] = kind
    return replace(FACTS, columns=MappingProxyType(columns))


CASES = [
    ("version", with_server(version_num=130_000), Outcome.FAIL, "upgrade"),
    ("version", with_server(same_machine=False), Outcome.WARN, "sslmode"),
    ("rights", with_server(may_replicate=False), Outcome.FAIL, 'ALTER ROLE "r" REPLICATION'),
    ("settings", with_server(wal_level="replica"), Outcome.FAIL, "wal_level = 'logical'"),
    ("settings", with_server(slot_wal_keep_size="-1"), Outcome.WARN, "max_slot_wal_keep_size"),
    (
        "settings",
        replace(with_server(slots_used=10), slot=None),
        Outcome.FAIL,
        "max_replication_slots = 20",
    ),
    (
        "settings",
        replace(with_server(senders_used=9), slot=None),
        Outcome.WARN,
        "max_wal_senders = 20",
    ),
    ("tables", replace(FACTS, columns={}), Outcome.FAIL, "dbname"),
    ("tables", with_columns("call_state_events", cseq=None), Outcome.FAIL, "restore"),
    ("tables", with_columns("call_state_events", cseq="bigint"), Outcome.FAIL, "restore"),
    ("tables", with_columns("call_state_events", extra="text"), Outcome.OK, ""),
    ("tables", replace(FACTS, readable={}), Outcome.WARN, "GRANT SELECT"),
    ("tables", with_server(encoding="SQL_ASCII"), Outcome.WARN, "nothing to do"),
    ("publication", replace(FACTS, publication=None), Outcome.FAIL, "CREATE PUBLICATION"),
    (
        "publication",
        replace(FACTS, publication=PUBLICATION | {"tables": []}),
        Outcome.FAIL,
        "ADD TABLE call_state_events",
    ),
    (
        "publication",
        replace(FACTS, publication=PUBLICATION | {"tables": ["call_state_events"]}),
        Outcome.WARN,
        "ADD TABLE observer_state_events",
    ),
    (
        "publication",
        replace(FACTS, publication=PUBLICATION | {"pubdelete": True}),
        Outcome.WARN,
        "publish = 'insert'",
    ),
    (
        "publication",
        replace(FACTS, publication=PUBLICATION | {"pubinsert": False}),
        Outcome.FAIL,
        "publish = 'insert'",
    ),
    ("slot", replace(FACTS, slot=None), Outcome.FAIL, "cdrstream reader --server a"),
    ("slot", replace(FACTS, slot=SLOT | {"active": False}), Outcome.WARN, "cdrstream reader"),
    (
        "slot",
        replace(FACTS, slot=SLOT | {"wal_status": "lost"}),
        Outcome.FAIL,
        "cdrstream reader --server a",
    ),
    ("slot", replace(FACTS, slot=SLOT | {"wal_status": "extended"}), Outcome.WARN, "keep_size"),
    ("slot", replace(FACTS, slot=SLOT | {"plugin": "wal2json"}), Outcome.FAIL, "servers.a.slot"),
    ("slot", replace(FACTS, slot=SLOT | {"database": "x"}), Outcome.FAIL, "servers.a.slot"),
    ("slot", replace(FACTS, slot=SLOT | {"retained_bytes": 2**40}), Outcome.WARN, "transaction"),
    ("slot", replace(FACTS, slot=SLOT | {"safe_wal_size": 1}), Outcome.WARN, "keep_size"),
    (
        "publication",
        replace(FACTS, publication=PUBLICATION | {"filtered": ["call_state_events"]}),
        Outcome.FAIL,
        "SET TABLE",
    ),
    (
        "settings",
        replace(FACTS, log={"bytes": 1e9, "hours": 0.1, "keep_bytes": 1}),  # too short a look
        Outcome.OK,
        "",
    ),
    (
        "settings",
        replace(FACTS, log={"bytes": 80 * 2**30, "hours": 2.0, "keep_bytes": 20 * 2**30}),
        Outcome.WARN,
        "max_slot_wal_keep_size = '960GB'",
    ),
    (
        "settings",
        replace(FACTS, log={"bytes": 2**30, "hours": 2.0, "keep_bytes": 20 * 2**30}),
        Outcome.OK,
        "",
    ),
    ("settings", with_server(idle_slot_timeout="0"), Outcome.OK, ""),
    ("settings", with_server(idle_slot_timeout="1d"), Outcome.WARN, "idle_replication_slot"),
    ("slot", replace(FACTS, slot=SLOT | {"read_by": "cdrstream"}), Outcome.OK, ""),
    ("slot", replace(FACTS, slot=SLOT | {"read_by": "debezium"}), Outcome.WARN, "servers.a.slot"),
    (
        "load",
        replace(FACTS, purge={"is_purged": True, "oldest_seconds": 3_600.0}),
        Outcome.WARN,
        "cdrstream purge --servers",
    ),
    ("load", replace(FACTS, purge={"is_purged": True, "oldest_seconds": 9e5}), Outcome.OK, ""),
    ("load", replace(FACTS, purge={"is_purged": False, "oldest_seconds": 9.0}), Outcome.OK, ""),
    ("load", replace(FACTS, oldest_transaction={}), Outcome.WARN, "pg_read_all_stats"),
    (
        "load",
        replace(FACTS, oldest_transaction={"seconds": 400.0, "may_look": True}),
        Outcome.WARN,
        "pg_stat_activity",
    ),
]


@pytest.mark.parametrize(("name", "facts", "expected", "advice"), CASES)
def test_what_a_server_lacks_is_found_with_advice(name, facts, expected, advice):
    findings = CHECKS[name](facts)
    assert outcome(findings) is expected
    assert any(advice in finding.advice for finding in findings)


@pytest.mark.parametrize(
    ("own", "read_by", "expected"),
    [
        ("", "cdrstream", Outcome.OK),
        ("", "billing", Outcome.WARN),
        ("application_name=billing", "billing", Outcome.OK),
        ("application_name=billing", "billing2", Outcome.WARN),
        (f"application_name={'x' * 70}", "x" * 63, Outcome.OK),
    ],
)
def test_our_reader_is_known_by_the_name_that_its_dsn_gives_it(
    own, read_by, expected, monkeypatch, tmp_path
):
    empty = tmp_path / "cdrstream.toml"
    empty.touch()
    facts = replace(FACTS, slot=SLOT | {"read_by": read_by})
    monkeypatch.setattr(command.server_facts, "gather", lambda *_, **__: facts)
    loaded = load(empty, environ={"CDRSTREAM_SERVERS__A__DSN": f"host=127.0.0.1 {own}"})
    (check,) = [one for one in command.checks(loaded, ["a"]) if one.key == "server a/slot"]
    assert outcome(check.run()) is expected


def test_rights_to_read_the_table_are_needed_where_old_rows_are_read():
    facts = replace(FACTS, readable={})
    assert outcome(server_tables.tables(facts, backfill=True)) is Outcome.FAIL


class TestResume:
    HERE = Identity("77", 1, 1_000)

    def stored(self, **more: object) -> StoredPosition:
        position = StoredPosition(lsn=900, system_id="77", timeline=1, slot="s")
        return replace(position, **more)

    def test_a_position_of_this_history_is_in_order(self):
        assert outcome(server_slot.resume(self.stored(), self.HERE)) is Outcome.OK
        assert outcome(server_slot.resume(None, self.HERE)) is Outcome.OK
        backfilling = self.stored(backfill_table="call_state_events")
        assert "from before its slot" in server_slot.resume(backfilling, self.HERE)[0].found

    @pytest.mark.parametrize("change", [{"lsn": 1_001}, {"system_id": "78"}, {"timeline": 2}])
    def test_one_of_a_restored_or_other_server_is_refused_with_advice(self, change):
        stored = self.stored(**change)
        check = Check("server a", "resume", lambda: server_slot.resume(stored, self.HERE))
        (result,) = run_all([check])
        assert result.outcome is Outcome.FAIL
        assert result.findings[0].advice


class TestClocks:
    @pytest.mark.parametrize(
        ("offset", "error", "corrected", "expected"),
        [
            (0.0, 0.001, True, Outcome.OK),
            (0.6, 0.01, True, Outcome.WARN),
            (-0.6, 0.01, True, Outcome.WARN),
            (0.4, 0.2, True, Outcome.WARN),  # the error bar crosses the threshold: cannot tell
            (9.0, 0.01, True, Outcome.WARN),
            (9.0, 0.01, False, Outcome.FAIL),
            (-9.0, 0.01, False, Outcome.FAIL),
        ],
    )
    def test_an_offset_counts_only_beyond_its_error(self, offset, error, corrected, expected):
        findings = clocks.judge(
            Measured(100.0 + offset, error / 2),
            Measured(100.0, error / 2),
            warning_seconds=0.5,
            allowed_lateness_seconds=5.0,
            corrected=corrected,
        )
        assert outcome(findings) is expected
        assert f"{offset:+.3f} s" in findings[0].found


class TestBroker:
    def states(self, **change: object) -> list[TopicState]:
        found = [
            TopicState(topic, topic.partitions, 3, topic.config) for topic in required(Kafka())
        ]
        return [replace(found[0], **change), *found[1:]]

    def test_topics_as_configured_are_in_order(self):
        assert outcome(broker.topics(self.states())) is Outcome.OK
        assert outcome(broker.replication(self.states())) is Outcome.OK

    @pytest.mark.parametrize(
        ("change", "expected", "said"),
        [
            ({"partitions": None}, Outcome.FAIL, "there is no topic sipx.call-state-events"),
            ({"partitions": 3}, Outcome.FAIL, "has 3 partitions"),
            ({"config": {"cleanup.policy": "compact"}}, Outcome.FAIL, "cleanup.policy"),
            (
                {"config": {"cleanup.policy": "delete", "retention.ms": "86400000"}},
                Outcome.WARN,
                "keeps 1.0 days",
            ),
            (
                {"config": {"cleanup.policy": "delete", "retention.ms": "-1"}},
                Outcome.OK,
                "as configured",
            ),
        ],
    )
    def test_a_topic_that_is_otherwise_is_named(self, change, expected, said):
        findings = broker.topics(self.states(**change))
        assert outcome(findings) is expected
        assert said in findings[0].found

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            ("compact,delete", Outcome.OK),
            ("delete,compact", Outcome.OK),
            ("compact", Outcome.WARN),  # what is gone is kept for ever, and harms nobody
            ("delete", Outcome.FAIL),
        ],
    )
    def test_statuses_are_compacted_and_forgotten(self, policy, expected):
        *others, status = self.states()
        config = {**status.config, "cleanup.policy": policy}
        assert outcome(broker.topics([*others, replace(status, config=config)])) is expected

    def test_one_replica_is_a_warning(self):
        assert outcome(broker.replication(self.states(replication_factor=1))) is Outcome.WARN

    def test_where_nothing_could_be_looked_at_nothing_is_in_order(self):
        none = [replace(state, partitions=None, replication_factor=None) for state in self.states()]
        (finding,) = broker.replication(none)
        assert (finding.outcome, "cannot tell" in finding.found) == (Outcome.WARN, True)
        (finding,) = processes.judge(None)
        assert (finding.outcome, "cannot tell" in finding.found) == (Outcome.WARN, True)

    def test_a_partition_without_leader_or_replicas_is_named(self):
        (finding,) = broker.topics(self.states(leaderless=(1, 3)))
        assert finding.outcome is Outcome.FAIL
        assert "nobody leads partition 1, 3" in finding.found
        (finding,) = broker.replication(self.states(thin=(2,)))
        assert finding.outcome is Outcome.WARN
        assert "sipx.call-state-events" in finding.found

    def test_a_server_without_heartbeats_is_named_with_its_partitions(self):
        newest = {0: {"a": 0.5, "b": 1.0}, 1: {"a": 0.5}}
        assert outcome(broker.heartbeats(newest, ["a"], 2)) is Outcome.OK
        (finding,) = broker.heartbeats(newest, ["a", "b"], 2)
        assert finding.outcome is Outcome.FAIL
        assert "server b in partition [1]" in finding.found
        (finding,) = broker.heartbeats({}, ["a"], 2)
        assert "in any partition" in finding.found


NOW = datetime(2024, 3, 4, tzinfo=UTC)
PROGRESS = [{"partition": n, "age_seconds": 1.0, "holder": "w", "watermark": NOW} for n in range(2)]
SINK = SinkFacts(
    database={
        "role": "w", "database": "SIPXCDR", "in_recovery": False, "has_version": True,
        "has_view": True, "has_migrations": True, "has_remote": True,
    },
    sipxcdr_version=7,
    migration=4,
    privileges={"cdrs": {"there": True, "may": True}},
    remote_may_read=True,
    progress=PROGRESS,
)  # fmt: skip


class TestSink:
    def test_a_sink_as_it_should_be_is_in_order(self):
        findings = [*sink.schema(SINK, 4), *sink.privileges(SINK), *sink.workers(SINK, 2)]
        assert outcome(findings) is Outcome.OK
        assert "before 2024-03-04 00:00:00 UTC are recorded" in findings[-1].found

    @pytest.mark.parametrize(
        ("facts", "expected", "said"),
        [
            (replace(SINK, migration=3), Outcome.FAIL, "at migration 3"),
            (replace(SINK, migration=None), Outcome.FAIL, "at migration none"),
            (replace(SINK, migration=5), Outcome.FAIL, "newer cdrstream"),
            (replace(SINK, sipxcdr_version=6), Outcome.FAIL, "schema version 6"),
            (replace(SINK, remote_may_read=None), Outcome.WARN, "cdrremote"),
            (
                replace(SINK, database=SINK.database | {"has_version": False}),
                Outcome.FAIL,
                "holds no SIPXCDR",
            ),
            (
                replace(SINK, database=SINK.database | {"in_recovery": True}),
                Outcome.FAIL,
                "standby",
            ),
        ],
    )
    def test_a_wrong_schema_is_named(self, facts, expected, said):
        findings = sink.schema(facts, 4)
        assert outcome(findings) is expected
        assert said in findings[0].found

    def test_missing_rights_are_named(self):
        facts = replace(SINK, privileges={"cdrs": {"there": True, "may": False}})
        assert "may not write cdrs" in sink.privileges(facts)[0].found

    @pytest.mark.parametrize(
        ("progress", "expected", "said"),
        [
            ([], Outcome.FAIL, "no worker has ever written"),
            (PROGRESS[:1], Outcome.FAIL, "partition 1"),
            ([PROGRESS[0] | {"age_seconds": 90.0}, PROGRESS[1]], Outcome.FAIL, "0 (for 90 s)"),
            ([PROGRESS[0] | {"watermark": None}, PROGRESS[1]], Outcome.WARN, "no watermark"),
        ],
    )
    def test_a_partition_that_nobody_writes_is_named(self, progress, expected, said):
        findings = sink.workers(replace(SINK, progress=progress), 2)
        assert outcome(findings) is expected
        assert said in findings[0].found


class TestRunning:
    def test_a_failed_cause_skips_its_effects_and_names_itself(self):
        checks = [
            Check("server a", "connect", lambda: [fail("refused")]),
            Check("server a", "slot", lambda: [ok("never run")], ("server a/connect",)),
            Check("server a", "more", lambda: [ok("never run")], ("server a/slot",)),
            Check("broker", "connect", lambda: [ok("there")]),
        ]
        results = run_all(checks)
        assert [result.outcome for result in results] == ["FAIL", "skip", "skip", "ok"]
        assert results[1].findings[0].found == "needs server a/connect"

    def test_a_warning_does_not_skip(self):
        checks = [
            Check("a", "one", lambda: [warn("hm")]),
            Check("a", "two", lambda: [ok("run")], ("a/one",)),
        ]
        assert run_all(checks)[1].outcome is Outcome.OK

    def test_an_exception_is_a_finding(self):
        def broken() -> list[Finding]:
            raise OSError(28, "No space left on device")

        (result,) = run_all([Check("a", "one", broken)])
        assert result.outcome is Outcome.FAIL
        assert result.findings[0].advice == "make room on that disk"

    def test_what_takes_too_long_is_cut(self):
        never = threading.Event()

        def hangs() -> list[Finding]:
            never.wait(30)
            return []

        (result,) = run_all([Check("a", "one", hangs)], time_limit_seconds=-0.9)
        never.set()
        assert result.outcome is Outcome.FAIL
        assert "no answer within" in result.findings[0].found

    def test_checks_run_side_by_side(self):
        meeting = threading.Barrier(5, timeout=60)

        def meets() -> list[Finding]:
            meeting.wait()
            return [ok("met")]

        five = [Check("a", str(number), meets) for number in range(5)]
        results = run_all(five, time_limit_seconds=60)
        assert worst(result.outcome for result in results) is Outcome.OK


class TestReport:
    def results(self):
        return run_all(
            [
                Check("configuration", "file", lambda: [ok("read")]),
                Check("server a", "slot", lambda: [fail("gone", "one", "cdrstream provision")]),
                Check("server a", "load", lambda: [warn("busy")], ("server a/slot",)),
            ]
        )

    def test_the_verdict_is_the_last_line_and_ok_is_folded(self):
        lines = command.report(self.results(), verbose=False, failed=True)
        assert lines == [
            "server a",
            "  FAIL  slot: gone",
            "        needed: one",
            "        do: cdrstream provision",
            "  skip  load: needs server a/slot",
            "NOT in order: 1 failed, 1 skipped, 1 in order (first: server a)",
        ]
        verbose = command.report(self.results(), verbose=True, failed=True)
        assert "  ok    file: read" in verbose

    def test_json_has_the_same(self):
        told = command.as_object(self.results(), failed=True)
        assert told["ok"] is False
        assert told["verdict"].startswith("NOT in order")
        assert [finding["outcome"] for finding in told["findings"]] == ["ok", "fail", "skip"]
