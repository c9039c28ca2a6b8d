"""Where the pages may be answered, and the hash of the password that opens them.

Owns what makes an address safe: beyond loopback a login and encryption. Refuses to serve: `access`
does. Imports no web framework, for `doctor` asks here too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
from typing import TYPE_CHECKING, Final

from ops.errors import ConfigError
from ops.listening import split_listen

if TYPE_CHECKING:
    from ops.config_sections import Dashboard

_SCRYPT: Final = (2**14, 8, 1)


def hash_password(password: str) -> str:
    """`scrypt$SALT$HASH`, for `dashboard.password_hash`."""
    salt = os.urandom(16)
    return f"scrypt${_b64(salt)}${_b64(_scrypt(password, salt))}"


def password_fits(password: str, hashed: str) -> bool:
    """Whether it is the password of that hash; in constant time."""
    try:
        kind, salt, told = hashed.split("$")
        if kind != "scrypt":
            return False
        return hmac.compare_digest(
            _scrypt(password, base64.b64decode(salt)), base64.b64decode(told)
        )
    except ValueError:
        return False


def _scrypt(password: str, salt: bytes) -> bytes:
    n, r, p = _SCRYPT
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, dklen=32)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_any(host: str) -> bool:
    """Whether it stands for every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def check_address(section: Dashboard, listen: str) -> tuple[str, int]:
    """Host and port, if what is configured makes it safe to answer there.

    Raises:
        ConfigError: It is open to others without login or encryption.
    """
    host, port = split_listen(listen)
    if bool(section.tls_certificate) != bool(section.tls_key):
        raise ConfigError(
            "dashboard.tls_certificate and dashboard.tls_key: one is set without the other",
            "set both, or neither",
        )
    if section.password_hash is not None:
        hashed = section.password_hash.get_secret_value()
        if not hashed.startswith("scrypt$") or hashed.count("$") != 2:
            raise ConfigError(
                "dashboard.password_hash is no hash of ours",
                "make one: cdrstream dashboard --hash-password",
            )
    if is_loopback(host):
        return host, port
    if section.password_hash is None and section.trusted_proxy_header is None:
        raise ConfigError(
            f"dashboard.listen = {listen!r} can be reached by others, and nobody has to log in",
            "set dashboard.password_hash (cdrstream dashboard --hash-password), or"
            " trusted_proxy_header, or listen on 127.0.0.1",
        )
    encrypted = section.tls_certificate or section.tls_by_proxy or section.trusted_proxy_header
    if not encrypted:
        raise ConfigError(
            f"dashboard.listen = {listen!r} can be reached by others without encryption",
            "set dashboard.tls_certificate and tls_key, or tls_by_proxy = true where a reverse"
            " proxy has it",
        )
    return host, port
