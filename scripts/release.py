"""Builds what is released, into dist/: sdist, wheel, a bill of materials, and their checksums.

Owns that the same commit gives the same bytes, whoever builds it and where: times are the commit's,
and the wheel is built a second time from the unpacked sdist and compared. Refuses to upload.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".tools" / "uv" / "bin" / "uv"


class NotReproducible(Exception):
    """Two builds of one source differ."""


def commit_seconds(root: Path = ROOT) -> str:
    """When the commit was made that is checked out."""
    told = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=root, capture_output=True, text=True, check=True
    )
    return told.stdout.strip()


def build(root: Path, to: Path, epoch: str) -> list[Path]:
    """The sdist and the wheel of a source folder."""
    to.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": "0"}
    environ.pop("CDRSTREAM_COMPILED", None)  # the pure wheel runs everywhere
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(to)],
        cwd=root,
        env=environ,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return sorted(path for path in to.iterdir() if path.name.endswith((".whl", ".tar.gz")))


def rebuilt(sdist: Path, to: Path, epoch: str) -> list[Path]:
    """The same from an unpacked sdist, in another folder and at another time."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(sdist) as archive:
        # An argument only from 3.11.4 on; the archive is our own.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # type: ignore[assignment]
        archive.extractall(folder)  # noqa: S202
        (source,) = Path(folder).iterdir()
        return build(source, to, epoch)


def sums(paths: list[Path]) -> dict[str, str]:
    """SHA-256 by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def release(to: Path) -> dict[str, str]:
    """Builds, compares, and writes SHA256SUMS; what was made.

    Raises:
        NotReproducible: A second build gave other bytes.
    """
    epoch = commit_seconds()
    for old in to.glob("*"):
        old.unlink()
    made = build(ROOT, to, epoch)
    (sdist,) = (path for path in made if path.name.endswith(".tar.gz"))
    with tempfile.TemporaryDirectory() as folder:
        again = sums(rebuilt(sdist, Path(folder), epoch))
    if again != sums(made):
        raise NotReproducible(f"{sums(made)} and then {again}")
    if UV.exists():
        bill = to / f"{sdist.name.removesuffix('.tar.gz')}.cdx.json"
        options = ["--frozen", "--no-dev", "--all-extras", "--format", "cyclonedx1.5", "--quiet"]
        subprocess.run([UV, "export", *options, "--output-file", bill], cwd=ROOT, check=True)
        made.append(bill)
    told = sums(made)
    lines = [f"{digest}  {name}\n" for name, digest in sorted(told.items())]
    (to / "SHA256SUMS").write_text("".join(lines))
    return told


if __name__ == "__main__":
    for name, digest in release(ROOT / "dist").items():
        print(f"{digest}  {name}")
