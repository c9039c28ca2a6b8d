"""A certificate authority for trying TLS out, made by `openssl`.

Owns the files. Refuses to be more than a try: keys are not encrypted, certificates end after 30
days, and nobody should trust what it signs beyond a test. Nothing that is there is overwritten.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ops.errors import OpsError, UsageError

CA: Final = "ca"
WARNING: Final = (
    "FOR TRYING ONLY: keys without a password, an authority beside what it signed, all of it ends"
    " in 30 days. Where calls are billed, take certificates of your own authority."
)
_DAYS: Final = "30"
_KEY: Final = ("-newkey", "rsa:2048", "-nodes")


def issue(folder: Path, hosts: list[str]) -> list[Path]:
    """Makes the authority where it is missing, and a key and certificate of each host.

    Args:
        folder: Where the files go; it is made.
        hosts: Names or addresses; the first of `NAME,NAME,...` names the files.

    Raises:
        UsageError: A host that cannot be one.
        OpsError: There is no openssl, or it fails; or a host has its files already.
    """
    if shutil.which("openssl") is None:
        raise OpsError("openssl is not installed", "sudo apt-get install -y openssl")
    wanted = [_alternatives(host) for host in hosts]
    for name, _ in wanted:
        for path in (folder / f"{name}.pem", folder / f"{name}.key"):
            if path.exists():
                raise OpsError(
                    f"{path} is there already", "remove it first, or make another folder"
                )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ca.pem").exists():
        _openssl(
            folder, "req", "-x509", *_KEY, "-days", _DAYS, "-subj", "/CN=cdrstream test authority",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", "ca.key", "-out", "ca.pem",
        )  # fmt: skip
    made = [folder / "ca.pem"]
    for name, alternatives in wanted:
        (folder / f"{name}.ext").write_text(
            f"subjectAltName={alternatives}\nbasicConstraints=CA:FALSE\n"
            "authorityKeyIdentifier=keyid\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        request = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        _openssl(folder, "req", *_KEY, *request)
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", _DAYS)
        files = ("-in", f"{name}.csr", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        _openssl(folder, "x509", "-req", *files, *signer)
        for leftover in (f"{name}.ext", f"{name}.csr"):
            (folder / leftover).unlink()
        made += [folder / f"{name}.pem", folder / f"{name}.key"]
    for path in made:
        path.chmod(0o600 if path.suffix == ".key" else 0o644)
    return made


def _alternatives(host: str) -> tuple[str, str]:
    """The name of the files, and all names of the certificate."""
    names = host.split(",")
    if not all(re.fullmatch(r"[A-Za-z0-9_.:-]{1,253}", name) for name in names) or names[0] == CA:
        raise UsageError(f"--host {host}: must be NAME or NAME,NAME,...; a name or an address")
    return names[0], ",".join(map(_alternative, names))


def _alternative(name: str) -> str:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return f"DNS:{name}"
    return f"IP:{name}"


def _openssl(folder: Path, *arguments: str) -> None:
    told = subprocess.run(
        ["openssl", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        umask=0o077,  # no key can ever be read by others, not even while it is made
    )
    if told.returncode:
        raise OpsError(f"openssl {arguments[0]}: {told.stderr.strip().splitlines()[-1:]}")
