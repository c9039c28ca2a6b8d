"""Are the dashboard's pages where they should be, and open to nobody else?

Owns the questions (what the files say, who answers at the address) and their judgement. A machine
on which no dashboard runs is in order: it is one service of several.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ops.dashboard.address import check_address, is_any, is_loopback
from ops.doctor.checks import TIME_LIMIT_SECONDS, Finding, fail, ok, warn
from ops.doctor.files import others_may_read

if TYPE_CHECKING:
    from ops.config_sections import Dashboard

CERTIFICATE_DAYS_WARN: Final = 14.0
_ROUNDS_MAX: Final = 20  # of a handshake in memory, which takes four


@dataclass(frozen=True, slots=True)
class Answer:
    """What a browser without a login gets, and whether it is from pages of ours."""

    status: int
    is_ours: bool


def address(section: Dashboard) -> list[Finding]:
    """Whether what is configured makes it safe to answer there, and browsers may find it.

    Raises:
        ConfigError: It is open to others without login or encryption.
    """
    host, _ = check_address(section, section.listen)
    if is_loopback(host):
        return [ok(f"{section.listen}: this machine alone")]
    findings = []
    if section.trusted_proxy_header is not None and section.password_hash is None:
        findings.append(
            warn(
                f"whoever reaches {section.listen} may write {section.trusted_proxy_header} itself",
                "the reverse proxy alone reaches it",
                "a firewall rule, or listen on the address that faces the proxy",
            )
        )
    if is_any(host) and not section.hosts:
        findings.append(
            warn(
                "dashboard.hosts is empty: who asks by a name other than localhost gets 421",
                "the names by which people ask",
                'dashboard.hosts = ["cdr.example.com"]',
            )
        )
    return findings or [ok(f"{section.listen}: others need a login, over TLS or the proxy")]


def days_left(certificate: str, key: str) -> float:
    """How long the certificate is still good; a handshake in memory tells, with any issuer.

    Raises:
        OSError: A file cannot be read, or they do not belong together (`ssl.SSLError`).
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key, password=_no_password)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate vouches for itself
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there)
    answering = server.wrap_bio(there, back, server_side=True)
    waiting: list[Callable[[], None]] = [asking.do_handshake, answering.do_handshake]
    for _ in range(_ROUNDS_MAX):
        waiting = [step for step in waiting if not _is_done(step)]
    told = asking.getpeercert() or {}
    return (ssl.cert_time_to_seconds(str(told["notAfter"])) - time.time()) / 86_400


def _no_password() -> str:
    return ""  # never asked for on a terminal


def _is_done(step: Callable[[], None]) -> bool:
    try:
        step()
    except ssl.SSLWantReadError:
        return False
    return True


def certificate(section: Dashboard) -> list[Finding]:
    """Whether the certificate and its key fit each other, are good, and the key is a secret."""
    path, key = section.tls_certificate, section.tls_key
    if path is None or key is None:
        return [ok("no certificate of its own")]
    try:
        left = days_left(path, key)
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message or "not valid"
        return [fail(f"{path}: {said}", "a certificate that is good now", "renew it, then restart")]
    except OSError as error:  # ssl.SSLError is one
        advice = "are both PEM, the key without a password, and readable by the dashboard's user?"
        return [fail(f"{path}, {key}: {error.strerror or error}", "a pair", advice)]
    findings = []
    if left < CERTIFICATE_DAYS_WARN:
        findings.append(
            warn(
                f"{path} is good for {left:.0f} more days",
                f"{CERTIFICATE_DAYS_WARN:.0f}",
                "renew it, then restart the dashboard",
            )
        )
    if others_may_read(key):
        findings.append(warn(f"{key} may be read by others", "mode 600", f"chmod 600 {key}"))
    return findings or [ok(f"{path} is good for {left:.0f} days")]


def ask(section: Dashboard) -> Answer | None:
    """What the pages answer to somebody who has not logged in; None where nobody listens.

    Raises:
        OSError: Somebody listens, and does not speak HTTP (or TLS) as configured.
        http.client.HTTPException: The same.
    """
    host, port = check_address(section, section.listen)
    if port == 0:  # a free one, which nobody knows from here
        return None
    if is_any(host):
        host = "::1" if ":" in host else "127.0.0.1"
    if section.tls_certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # who they are is asked of the files
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=TIME_LIMIT_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIME_LIMIT_SECONDS)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return None
    try:
        connection.request("GET", "/status.json")
        told = connection.getresponse()
        policy = told.getheader("content-security-policy") or ""
        return Answer(told.status, "frame-ancestors" in policy)
    finally:
        connection.close()


def answer(section: Dashboard, told: Answer | None) -> list[Finding]:
    """Whether who listens there is ours, and lets in only whom it should."""
    if told is None:
        return [ok(f"nobody listens at {section.listen}: it does not run here")]
    if not told.is_ours:
        return [
            fail(
                f"another program answers at {section.listen}",
                "a free address",
                "dashboard.listen: another port",
            )
        ]
    shut = section.password_hash is not None or section.trusted_proxy_header is not None
    if shut and told.status == http.client.OK:
        return [
            fail(
                f"{section.listen} shows everything without a login",
                "the login that is configured",
                "it runs with an older configuration: restart it",
            )
        ]
    if not shut and told.status != http.client.OK:
        return [
            warn(
                f"{section.listen} answers {told.status} where no login is configured",
                "200",
                "it runs with another configuration: restart it",
            )
        ]
    return [ok(f"{section.listen} answers" + (", and asks for a login" if shut else ""))]
