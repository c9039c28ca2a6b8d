"""The configuration: where values come from, and what is said about wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from callstate.config import ResolutionConfig, TimeCorrection
from cdc.settings import ReaderSettings, StartMode
from ops.config import reader_settings, resolution_config, worker_settings
from ops.config_report import as_object, as_text
from ops.config_sources import Loaded, load
from ops.dsn import same_host, with_options
from ops.errors import ConfigError

WHOLE = """
    [kafka]
    bootstrap_servers = "k1:9092,k2:9092"
    partitions = 4
    security_protocol = "sasl_ssl"
    sasl_mechanism = "SCRAM-SHA-512"
    sasl_username = "cdr"
    sasl_password = "geheim"
    ssl_ca_file = "/etc/ca.pem"

    [[servers]]
    name = "a"
    dsn = "host=10.0.0.1 dbname=SIPXCDR user=cdr_reader password=geheim"

    [[servers]]
    name = "b-2"
    dsn = "postgresql://cdr_reader:geheim@10.0.0.2:5433/SIPXCDR"
    slot = "mine"

    [sink]
    dsn = "host=10.0.0.1 dbname=SIPXCDR user=cdr_writer"

    [resolution]
    idle_after_seconds = "never"
    time_correction = "off"
"""


@pytest.fixture
def write(tmp_path: Path):
    def writing(text: str) -> Path:
        path = tmp_path / "cdrstream.toml"
        path.write_text(dedent(text), encoding="utf-8")
        return path

    return writing


def loading(path: Path, environ: Mapping[str, str] | None = None, *flags: str) -> Loaded:
    return load(path, environ or {}, flags)


def wrong(path: Path, environ: Mapping[str, str] | None = None, *flags: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {}, flags)
    assert caught.value.exit_code == 2
    return str(caught.value)


class TestSources:
    def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(self, write):
        path = write("[kafka]\npartitions = 2\nretention_days = 3")
        variables = {"CDRSTREAM_KAFKA__PARTITIONS": "4", "CDRSTREAM_LOG__LEVEL": "debug"}
        loaded = loading(path, variables, "kafka.partitions=6")
        assert loaded.config.kafka.partitions == 6
        assert loaded.config.log.level == "debug"
        assert loaded.config.kafka.retention_days == 3
        assert loaded.config.kafka.topic_prefix == "sipx."
        origins = {
            name: loaded.origin(tuple(name.split(".")))
            for name in (
                "kafka.partitions", "log.level", "kafka.retention_days", "kafka.topic_prefix"
            )
        }  # fmt: skip
        assert origins == {
            "kafka.partitions": "flag --set kafka.partitions",
            "log.level": "environment CDRSTREAM_LOG__LEVEL",
            "kafka.retention_days": str(path),
            "kafka.topic_prefix": "default",
        }

    def test_the_environment_changes_one_server_by_its_name_or_number(self, write):
        path = write(WHOLE)
        variables = {
            "CDRSTREAM_SERVERS__B_2__PUBLICATION": "other",
            "CDRSTREAM_SERVERS__0__SLOT": "first",
        }
        servers = loading(path, variables).config.servers
        assert servers["b-2"].publication == "other"
        assert servers["b-2"].slot == "mine"
        assert servers["a"].slot == "first"

    def test_a_server_may_come_from_the_environment_alone(self, write):
        variables = {"CDRSTREAM_SERVERS__EDGE__DSN": "host=x"}
        assert list(loading(write(""), variables).config.servers) == ["edge"]

    def test_all_servers_may_come_as_json(self, write):
        variables = {"CDRSTREAM_SERVERS": '[{"name": "x", "dsn": "host=y"}]'}
        assert list(loading(write(""), variables).config.servers) == ["x"]

    def test_an_alias_in_one_source_overrides_the_name_in_another(self, write):
        path = write('[kafka]\nssl_ca_location = "/file"')
        kafka = loading(path, {"CDRSTREAM_KAFKA__SSL_CA_FILE": "/environment"}).config.kafka
        assert kafka.client_properties()["ssl.ca.location"] == "/environment"

    def test_the_file_may_be_named_in_the_environment(self, write):
        path = write("[kafka]\npartitions = 3")
        assert load(None, {"CDRSTREAM_CONFIG": str(path)}).config.kafka.partitions == 3

    def test_without_a_file_the_defaults_hold(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        loaded = load(None, {})
        assert loaded.file is None
        assert loaded.config.kafka.partitions == 8

    def test_the_file_of_the_working_folder_is_found(self, write, monkeypatch):
        monkeypatch.chdir(write("[kafka]\npartitions = 5").parent)
        assert load(None, {}).config.kafka.partitions == 5

    def test_variables_of_the_local_stack_are_no_settings(self, write):
        loading(write(""), {"CDRSTREAM_CACHE": "/x", "CDRSTREAM_TEST_ANY": "1"})


class TestWrongSettings:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "[kafka]\npartitons = 3",
                "kafka.partitons = 3: unknown setting; did you mean kafka.part",
            ),
            ("[kafka]\nlevel = 3", "kafka.level = 3: unknown setting; did you mean log.level?"),
            ("[kafka]\npasswort = 'hunter2'", "kafka.passwort = ********: unknown setting"),
            ("[sinks]\ndsn = ''", "sinks: unknown setting; did you mean sink?"),
            ("kafka = 3", "kafka = 3: must be a table"),
            ("[kafka]\npartitions = 0", "kafka.partitions = 0: must be greater than or equal to 1"),
            ("[kafka]\npartitions = true", "kafka.partitions = True: must be a number"),
            ("[kafka]\npartitions = 'x'", "kafka.partitions = 'x': must be a valid integer"),
            ("[kafka]\ntopic_prefix = 'a b'", "kafka.topic_prefix = 'a b': must match pattern"),
            ("[kafka]\nsasl_mechanism = 'PLAIN'", "security_protocol must be sasl_plaintext or"),
            ("[kafka]\nssl_ca_file = 'a'\nssl_ca_location = 'b'", "are one setting"),
            (
                "[resolution]\ntime_correction = 'on'",
                "resolution.time_correction = 'on': must be 'auto' or 'off'",
            ),
            (
                "[resolution]\nidle_after_seconds = 'x'",
                "resolution.idle_after_seconds = 'x': must be a valid number or must be 'never'",
            ),
            ("[resolution]\nmax_call_seconds = nan", "must be a finite number"),
            ("[resolution]\nallowed_lateness_seconds = -1", "must be greater than or equal to 0"),
            ("[[servers]]\ndsn = 'host=x'", "table 1 has no name"),
            ("[[servers]]\nname = 'A b'\ndsn = 'host=x'", "name = 'A b': must be 1 to 40 of a-z"),
            ("[[servers]]\nname = 'a'", "servers.a.dsn: must be set"),
            ("[servers]\nname = 'a'", "each begun by a line [[servers]]"),
            ("[[servers]]\nname='a'\ndsn='host=x'\nslot='A'", "servers.a.slot = 'A': must be 1"),
            (
                "[[servers]]\nname='a'\ndsn='host=x'\n[[servers]]\nname='a'\ndsn='host=y'",
                "table 2: name = 'a': is taken",
            ),
            (
                "[[servers]]\nname='a'\ndsn='host=x'\n[resolution]\nreference='b'",
                "resolution.reference = 'b': must be one of a",
            ),
            ("[kafka\npartitions = 3", "is not TOML"),
            ("a = 1\nb = = 2", "line 2"),
        ],
    )
    def test_the_message_names_setting_value_and_what_is_allowed(self, write, text, said):
        path = write(text)
        message = wrong(path)
        assert said in message
        assert len(message.splitlines()) == 1

    def test_the_message_names_the_source(self, write):
        path = write("[kafka]\npartitions = 0")
        assert wrong(path).startswith(f"{path}: kafka.partitions")
        message = wrong(path, {"CDRSTREAM_KAFKA__PARTITIONS": "-1"})
        assert message.startswith(
            "environment CDRSTREAM_KAFKA__PARTITIONS: kafka.partitions = '-1'"
        )
        assert wrong(path, {}, "kafka.partitions=no").startswith("flag --set kafka.partitions:")

    def test_every_wrong_setting_is_told_at_once(self, write):
        message = wrong(write("[kafka]\npartitions = 0\n[log]\nlevel = 'loud'\nlevl = 1"))
        assert len(message.splitlines()) == 3

    def test_an_unknown_variable_is_refused(self, write):
        message = wrong(write(""), {"CDRSTREAM_KAFKA__PARTITION": "3"})
        assert (
            "environment CDRSTREAM_KAFKA__PARTITION: kafka.partition = ********: unknown" in message
        )
        assert "did you mean kafka.partitions?" in message

    def test_a_flag_needs_a_path_and_a_value(self, write):
        assert "must be PATH=VALUE" in wrong(write(""), {}, "kafka.partitions")

    def test_a_file_that_does_not_exist_is_named(self, tmp_path):
        assert "nowhere.toml: cannot be read: No such file" in wrong(tmp_path / "nowhere.toml")

    def test_a_server_that_is_not_configured_is_named_with_those_that_are(self, write):
        with pytest.raises(ConfigError, match="no server 'c'; configured: a, b-2"):
            reader_settings(loading(write(WHOLE)).config, "c")

    def test_a_command_that_needs_the_sink_says_so(self, write):
        with pytest.raises(ConfigError, match=r"sink\.dsn is not set"):
            worker_settings(loading(write("")).config)


class TestSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            WHOLE,
            "[[servers]]\nname='a'\ndsn='host=x password=geheim'",
            "[[servers]]\nname='a'\ndsn='postgres://u:geheim@h/db?sslpassword=geheim'",
            "[[servers]]\nname='a'\ndsn='postgres://h/db?user=u&password=geheim'",
            '[[servers]]\nname="a"\ndsn="host=x password = \'geheim geheim\'"',
        ],
    )
    def test_nothing_that_is_shown_holds_a_password(self, write, text):
        loaded = loading(write(text))
        shown = as_text(loaded) + str(as_object(loaded)) + repr(loaded.config) + str(loaded.config)
        assert "geheim" not in shown
        assert "********" in shown

    @pytest.mark.parametrize(
        "text",
        [
            "[[servers]]\nname='a'\ndsn='host=x pasword=geheim'",
            "[[servers]]\nname='a'\ndsn='host=x password=ge heim'",
            "[[servers]]\nname='a'\ndsn='postgres://u:geheim@[h/db'",
            "[[servers]]\nname='a'\ndsn=['geheim']",
            "[kafka]\nsasl_password = ['geheim']",
            "[kafka]\nsasl_pasword = 'geheim'",
        ],
    )
    def test_nor_does_a_complaint_about_it(self, write, text):
        message = wrong(write(text))
        assert "geheim" not in message.replace("pasword", "")
        assert "heim" not in message

    def test_a_misspelt_keyword_of_a_dsn_is_named(self, write):
        message = wrong(write("[[servers]]\nname='a'\ndsn='host=x pasword=y'"))
        assert "servers.a.dsn = ********" in message
        assert "did you mean 'password'?" in message


class TestTranslation:
    def test_every_rule_reaches_the_domain(self, write):
        rules = resolution_config(loading(write(WHOLE)).config)
        assert rules.servers == ("a", "b-2")
        assert rules.idle_after_seconds is None
        assert rules.time_correction is TimeCorrection.OFF

    def test_the_defaults_are_the_domains_own(self, write):
        assert resolution_config(loading(write("")).config) == ResolutionConfig()

    def test_a_reader_gets_its_server_and_kafka_in_librdkafkas_names(self, write):
        settings = reader_settings(loading(write(WHOLE)).config, "b-2")
        assert isinstance(settings, ReaderSettings)
        assert settings.slot_name == "mine"
        assert settings.partitions == 4
        assert settings.reference is False
        assert settings.kafka == {
            "bootstrap.servers": "k1:9092,k2:9092",
            "security.protocol": "sasl_ssl",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "cdr",
            "sasl.password": "geheim",
            "ssl.ca.location": "/etc/ca.pem",
        }

    def test_kafkas_own_way_of_writing_a_protocol_is_understood(self, write):
        text = WHOLE.replace('"sasl_ssl"', '"SASL_SSL"').replace("SCRAM-SHA-512", "scram-sha-512")
        kafka = loading(write(text)).config.kafka
        assert (kafka.security_protocol, kafka.sasl_mechanism) == ("sasl_ssl", "SCRAM-SHA-512")

    def test_a_readers_defaults_are_its_own(self, write):
        path = write("[[servers]]\nname='a'\ndsn='host=x'")
        settings = reader_settings(loading(path).config, "a")
        kafka = {"bootstrap.servers": "127.0.0.1:9092"}
        assert settings == ReaderSettings(server="a", dsn="host=x", kafka=kafka)
        assert settings.start_mode is StartMode.BACKFILL

    def test_a_server_on_the_sinks_machine_is_the_reference(self, write):
        config = loading(write(WHOLE)).config
        assert reader_settings(config, "a").reference is True
        assert same_host("host=a port=1 user=x", "postgresql://y@a:1/z")
        assert not same_host("host=a port=1", "host=a port=2")

    def test_a_session_keeps_the_options_of_its_dsn(self):
        assert "-c a=1 -c b=2" in with_options("host=x options='-c a=1'", "-c b=2")

    def test_a_worker_gets_the_sink_the_rules_and_the_topics(self, write):
        path = write(WHOLE + '\n[worker]\nid = "w1"\n')
        settings = worker_settings(loading(path, {"CDRSTREAM_SINK__SCHEMA": "beside"}).config)
        assert settings.sink_schema == "beside"
        assert settings.worker_id == "w1"
        assert settings.partitions == 4
        assert settings.resolution.servers == ("a", "b-2")
        assert settings.librdkafka()["ssl.ca.location"] == "/etc/ca.pem"
        assert "geheim" not in repr(loading(path).config)


class TestShow:
    def test_what_is_shown_is_toml_again(self, write):
        import tomllib

        again = tomllib.loads(as_text(loading(write(WHOLE))))
        assert again["kafka"]["partitions"] == 4
        assert [server["name"] for server in again["servers"]] == ["a", "b-2"]
        assert again["resolution"]["idle_after_seconds"] == "never"

    def test_json_has_value_and_origin(self, write):
        path = write("[kafka]\npartitions = 4")
        settings = as_object(loading(path))["settings"]
        assert settings["kafka.partitions"] == {"value": 4, "origin": str(path)}
        assert settings["sink.schema"] == {"value": "public", "origin": "default"}
