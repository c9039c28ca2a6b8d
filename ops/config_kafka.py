"""The section `[kafka]`: the broker, how to talk to it, and the topics.

Owns the names that operators write there, librdkafka's among them, and what must agree with what.
Refuses to know where a value came from (`ops.config_sources`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from callstate.addresses import broker_addresses
from ops.config_values import Seconds, Section, Text, Whole


def _in_lower_case(value: object) -> object:
    """Kafka's own tools write some names in capitals, librdkafka in lower case: both are taken."""
    return value.lower() if isinstance(value, str) else value


def _in_capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _brokers(servers: str) -> str:
    broker_addresses(servers)
    return servers


class Librdkafka(Section):
    """Properties of librdkafka that are the installation's, not ours; names with underscores."""

    client_id: Text | None = Field(
        default=None, description="name of this client in the broker's logs"
    )
    client_rack: Text | None = Field(
        default=None, description="rack, to read from the nearest replica"
    )
    broker_address_family: Literal["any", "v4", "v6"] | None = Field(
        default=None, description="IP version"
    )
    socket_timeout_ms: Whole | None = Field(
        default=None, ge=10, le=300_000, description="of a request"
    )
    socket_keepalive_enable: bool | None = Field(default=None, description="TCP keepalives")
    reconnect_backoff_max_ms: Whole | None = Field(
        default=None, ge=0, le=3_600_000, description="ceiling"
    )
    security_protocol: Annotated[
        Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] | None,
        BeforeValidator(_in_lower_case),
    ] = Field(default=None, description="how to talk to the broker")
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"] | None,
        BeforeValidator(_in_capitals),
    ] = Field(default=None, description="how to log in")
    sasl_username: Text | None = Field(default=None, description="user")
    sasl_password: SecretStr | None = Field(default=None, description="its password")
    sasl_kerberos_service_name: Text | None = Field(
        default=None, description="the broker's principal"
    )
    sasl_kerberos_principal: Text | None = Field(
        default=None, description="this client's principal"
    )
    sasl_kerberos_keytab: Text | None = Field(default=None, description="file with its key")
    ssl_ca_location: Text | None = Field(
        default=None,
        description="file of the certificate authorities to trust (alias `ssl_ca_file`)",
    )
    ssl_certificate_location: Text | None = Field(
        default=None, description="this client's certificate"
    )
    ssl_key_location: Text | None = Field(default=None, description="its private key")
    ssl_key_password: SecretStr | None = Field(
        default=None, description="password of the private key"
    )
    ssl_cipher_suites: Text | None = Field(default=None, description="allowed ciphers")
    ssl_crl_location: Text | None = Field(default=None, description="certificate revocation list")
    ssl_endpoint_identification_algorithm: Literal["none", "https"] | None = Field(
        default=None, description="whether the certificate must name the broker's host"
    )
    enable_ssl_certificate_verification: bool | None = Field(
        default=None, description="whether the broker's certificate is checked"
    )


class Kafka(Librdkafka):
    """The broker and the topics."""

    bootstrap_servers: Annotated[Text, AfterValidator(_brokers)] = Field(
        default="127.0.0.1:9092", description="`host:port`, comma separated; without a port, 9092"
    )
    partitions: Whole = Field(
        default=8, ge=1, le=1_000, description="of the event topic; fixed when it is created"
    )
    replication_factor: Whole = Field(
        default=-1,
        ge=-1,
        le=32_767,
        description="of the topics that provision creates; -1: the broker's",
    )
    topic_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{0,100}$")] = Field(
        default="sipx.", description="what the name of every topic begins with"
    )
    retention_days: Seconds = Field(
        default=35, gt=0, le=36_500, description="how far back CDRs can be rebuilt from the topic"
    )

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for alias, name in KAFKA_ALIASES.items():
            if alias in values:
                if name in values:
                    raise ValueError(f"{alias} and {name} are the same setting: give one of them")
                values = {**values, name: values[alias]}
                del values[alias]
        return values

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        wants_sasl = (self.security_protocol or "").startswith("sasl")
        if wants_sasl and self.sasl_mechanism is None:
            raise ValueError("sasl_mechanism must be set where security_protocol is sasl_...")
        if self.sasl_mechanism is not None and not wants_sasl:
            raise ValueError(
                "security_protocol must be sasl_plaintext or sasl_ssl where sasl_mechanism is set"
            )
        return self

    @model_validator(mode="after")
    def _brokers_speak_the_protocol(self) -> Self:
        protocol = self.security_protocol or "plaintext"
        for address in broker_addresses(self.bootstrap_servers):
            if address.protocol not in ("", protocol):  # librdkafka leaves such a broker out
                raise ValueError(
                    f"bootstrap_servers says {address.protocol}://, security_protocol {protocol}:"
                    " they must agree"
                )
        return self

    def topic(self, name: str) -> str:
        """The whole name of a topic: `topic("cdrs")` is `sipx.cdrs`."""
        return self.topic_prefix + name

    @property
    def events_topic(self) -> str:
        """Events, heartbeats and gaps, keyed by call-id."""
        return self.topic("call-state-events")

    def client_properties(self) -> dict[str, str | int | bool]:
        """The properties that every librdkafka client gets, secrets in the clear."""
        properties: dict[str, str | int | bool] = {"bootstrap.servers": self.bootstrap_servers}
        for name in Librdkafka.model_fields:
            value = getattr(self, name)
            if value is not None:
                plain = value.get_secret_value() if isinstance(value, SecretStr) else value
                properties[name.replace("_", ".")] = plain
        return properties


KAFKA_ALIASES = {"ssl_ca_file": "ssl_ca_location", "sasl_mechanisms": "sasl_mechanism"}
