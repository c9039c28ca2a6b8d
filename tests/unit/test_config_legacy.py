"""An old callresolver-config in the place of ours."""

from __future__ import annotations

import pytest

from ops.config import resolution_config
from ops.config_sources import load
from ops.errors import ConfigError


@pytest.fixture
def reading(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text: str):
        path = tmp_path / "callresolver-config"
        path.write_text(text)
        return load(None, {"CALLRESOLVER_CONFIG": str(path)})

    return read


def test_an_empty_file_has_the_old_defaults(reading):
    config = reading("# nothing\n\n").config
    assert list(config.servers) == ["localhost"]
    assert config.sink_dsn() == "host=localhost port=5432 dbname=SIPXCDR user=postgres"
    rules = resolution_config(config)
    assert rules.max_call_seconds == 28_800
    assert rules.max_ringing_seconds == 120
    assert rules.failed_wait_seconds == 180


def test_hosts_become_servers_and_the_sink_is_here(reading):
    config = reading(
        "SIP_CALLRESOLVER_CSE_HOSTS : localhost:5433, Branch.example.com:9300,10.1.2.3:5432\n"
        "SIP_CALLRESOLVER_DB_USER : cdr\n"
        "SIP_CALLRESOLVER_DB_PASSWORD : ge'heim\n"
    ).config
    assert list(config.servers) == ["localhost", "branch-example-com", "10-1-2-3"]
    dsn = config.server("branch-example-com").dsn
    assert "host=Branch.example.com port=9300" in dsn.get_secret_value()
    assert "geheim" not in str(dsn).replace("'", "")
    assert "port=5433" in config.sink_dsn()


def test_two_ports_of_one_host_are_two_servers(reading):
    config = reading("SIP_CALLRESOLVER_CSE_HOSTS : localhost, localhost:5433").config
    assert list(config.servers) == ["localhost", "localhost-5433"]


def test_timers_and_log_level_are_taken(reading):
    loaded = reading(
        "SIP_CALLRESOLVER_MAX_CALL_LEN : 3600\nSIP_CALLRESOLVER_MAX_RINGING_CALL_LEN : -1\n"
        "SIP_CALLRESOLVER_MAX_FAILED_WAIT :\nSIP_CALLRESOLVER_LOG_LEVEL : notice\n"
    )
    rules = resolution_config(loaded.config)
    assert (rules.max_call_seconds, rules.max_ringing_seconds) == (3_600, -1)
    assert rules.failed_wait_seconds == 180  # empty is unset
    assert loaded.config.log.level == "info"
    assert loaded.origin(("resolution", "max_call_seconds")).endswith(
        "callresolver-config:1 SIP_CALLRESOLVER_MAX_CALL_LEN"
    )


def test_what_has_no_meaning_any_more_is_accepted_with_a_notice(reading):
    loaded = reading(
        "SIP_CALLRESOLVER_CSE_POLLING_INTERVAL : 10\nSIP_CALLRESOLVER_CSE_QUEUE_SIZE : 1000\n"
        "SIP_CALLRESOLVER_PURGE_AGE_CDR : 35\nCSV_LIMIT : 25000\n"
    )
    assert len(loaded.notices) == 3
    assert loaded.config.retention.cdr_days == 35
    assert "CSE_POLLING_INTERVAL has no meaning any more" in loaded.notices[0]


@pytest.mark.parametrize(
    ("lines", "listen"),
    [
        ("", ""),
        ("SIP_CALLRESOLVER_AGENT_PORT : 8131\n", "0.0.0.0:8131"),
        ("SIP_CALLRESOLVER_AGENT_ADDR : 127.0.0.1\n", "127.0.0.1:8130"),
        ("SIP_CALLRESOLVER_AGENT_ADDR : ::1\nSIP_CALLRESOLVER_AGENT_PORT : 80\n", "[::1]:80"),
    ],
)
def test_active_calls_are_served_where_the_agent_was(reading, lines, listen):
    loaded = reading(lines)
    assert loaded.config.worker.active_listen == listen
    assert loaded.notices == ()


def test_our_environment_overrides_it(tmp_path):
    path = tmp_path / "old"
    path.write_text("SIP_CALLRESOLVER_MAX_CALL_LEN : 3600\n")
    variables = {
        "CALLRESOLVER_CONFIG": str(path),
        "CDRSTREAM_RESOLUTION__MAX_CALL_SECONDS": "60",
        "CDRSTREAM_KAFKA__BOOTSTRAP_SERVERS": "k:1",
    }
    config = load(None, variables).config
    assert config.resolution.max_call_seconds == 60
    assert config.kafka.bootstrap_servers == "k:1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SIP_CALLRESOLVER_MAX_CALL_LEN 3600", ":1: no colon in this line"),
        ("SIP_CALLRESOLVER_MAX_CALL_LENGTH : 1", "did you mean SIP_CALLRESOLVER_MAX_CALL_LEN?"),
        ("SOMETHING : 1", ":1: SOMETHING: unknown setting"),
        ("SIP_CALLRESOLVER_MAX_CALL_LEN : x", "= 'x': must be a whole number from -1"),
        ("SIP_CALLRESOLVER_MAX_CALL_LEN : -2", "= '-2': must be a whole number from -1"),
        ("SIP_CALLRESOLVER_PURGE_AGE_CSE : 0", "must be a whole number from 1"),
        ("SIP_CALLRESOLVER_MIN_CLEANUP_INTERVAL : 59", "must be a whole number from 60"),
        ("SIP_CALLRESOLVER_PURGE : YES", "must be ENABLE or DISABLE"),
        ("SIP_CALLRESOLVER_LOG_LEVEL : LOUD", "must be one of DEBUG, INFO, NOTICE"),
        ("SIP_CALLRESOLVER_CSE_HOSTS : far.example.com", "only localhost may go without"),
        ("SIP_CALLRESOLVER_CSE_HOSTS : localhost:0", "must be a number from 1 to 65535"),
        ("SIP_CALLRESOLVER_CSE_HOSTS : localhost, localhost", "is there twice"),
        ("SIP_CALLRESOLVER_MAX_CALL_LEN : 9999999999", "to 2147483647"),
        ("SIP_CALLRESOLVER_AGENT_PORT : 0", "= '0': must be a number from 1 to 65535"),
        ("SIP_CALLRESOLVER_AGENT_ADDR : a b", "= 'a b': must be a host name or an address"),
    ],
)
def test_a_wrong_line_is_named(reading, line, said):
    with pytest.raises(ConfigError) as caught:
        reading(line)
    assert said in str(caught.value)
