"""A certificate that vouches for itself, for tests that read or show one."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(folder: Path, days: int = 30) -> tuple[Path, Path]:
    """The certificate of `localhost` and its key, made in that folder."""
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", str(days), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", made),
        ),
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    return made, key
