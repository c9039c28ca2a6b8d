"""What an operator reads where a broker cannot be got through to: one line, and what to do."""

from __future__ import annotations

import re

import pytest

from callstate.broker_words import Heard, advice_for, short

UNTRUSTED = (
    "sasl_ssl://k:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate"
    " verify failed: broker certificate could not be verified, verify that ssl.ca.location is"
    " correctly configured or root CA certificates are installed (install ca-certificates package)"
    " (after 12ms in state SSL_HANDSHAKE)"
)
WRONG_PASSWORD = (
    "sasl_ssl://k:9093/bootstrap: SASL authentication error: Authentication failed during"
    " authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512"
    " (after 5ms in state AUTH_REQ)"
)


class Said:
    """As librdkafka's error says it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def str(self) -> str:
        return self._text


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (UNTRUSTED, "ssl_ca_file.*bootstrap_servers"),
        ("certificate verify failed: Hostname mismatch, certificate is not valid for 'x'", "name"),
        ("certificate verify failed: IP address mismatch, certificate is not", "must name the"),
        ("certificate verify failed: unable to get local issuer certificate", "ssl_ca_file"),
        ("certificate verify failed: certificate has expired", "new certificate"),
        ("ssl.ca.location failed: error:05880020:x509 certificate routines::BIO lib", "PEM file"),
        (WRONG_PASSWORD, "sasl_username"),
        ("Broker: Unsupported SASL mechanism: broker's supported mechanisms: PLAIN", "mechanism"),
        ("SSL handshake failed: wrong version number", "security_protocol"),
        ("Broker: Topic authorization failed", "cdrstream acls"),
        ("1/1 brokers are down", "^$"),
        ("Connect to ipv4#127.0.0.1:1 failed: Connection refused", "^$"),
    ],
)
def test_what_to_do_about_it(text: str, advice: str) -> None:
    assert re.search(advice, advice_for(text))


def test_one_line_without_noise() -> None:
    assert short(UNTRUSTED) == (
        "k:9093: SSL handshake failed: SSL routines::certificate verify failed: broker certificate"
        " could not be verified"
    )
    assert short(WRONG_PASSWORD).endswith("with SASL mechanism SCRAM-SHA-512")
    assert short("a\n b") == "a b"


def test_of_all_that_is_said_what_says_most_is_kept() -> None:
    heard = Heard()
    assert (heard.reason, heard.advice) == ("", "")
    for text in ("1/1 brokers are down", WRONG_PASSWORD, "1/1 brokers are down"):
        heard(Said(text))
    assert "invalid credentials" in heard.reason
    assert "sasl_username" in heard.advice
    heard.forget()
    assert (heard.reason, heard.advice) == ("", "")
