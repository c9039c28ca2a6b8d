"""Whether anything that an installation brings has a known vulnerability.

Owns what is asked (every locked dependency, developers' tools left out) and the answer. The data
are the advisories of PyPI, or of OSV where PyPI's cannot be had. Three ends: nothing known (0),
something found (1), and not audited (2 with --strict, else 0 and loud): no data is no all-clear.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".tools" / "uv" / "bin" / "uv"
SERVICES = ("pypi", "osv")
FOUND, NOT_AUDITED = 1, 2


class NoDataError(Exception):
    """The advisories cannot be had."""


def requirements(to: Path) -> Path:
    """What is locked, with its hashes, as pip has it."""
    path = to / "requirements.txt"
    options = ["--frozen", "--no-dev", "--all-extras", "--no-emit-project", "--quiet"]
    subprocess.run([UV, "export", *options, "--output-file", path], cwd=ROOT, check=True)
    return path


def ask(wanted: Path, service: str, tool: list[str]) -> list[dict[str, Any]]:
    """Every dependency with its advisories.

    Raises:
        NoDataError: That service does not answer, or knows nothing.
    """
    options = ["--disable-pip", "--progress-spinner=off", "--format=json", "--desc=on"]
    told = subprocess.run(
        [*tool, f"--requirement={wanted}", f"--vulnerability-service={service}", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(told.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        lines = [line.strip() for line in told.stderr.splitlines() if line.strip()]
        raise NoDataError(lines[-1] if lines else f"exit code {told.returncode}") from error
    reasons = [each["skip_reason"] for each in found if "skip_reason" in each]
    if reasons and len(reasons) == len(found):  # a mirror that has packages and no advisories
        raise NoDataError(f"it knows none of {len(found)} dependencies: {reasons[0]}")
    return found


def vulnerable(dependencies: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each advisory."""
    for each in dependencies:
        for advisory in each.get("vulns", ()):
            mended = ", ".join(advisory["fix_versions"]) or "no version yet"
            what = " ".join(str(advisory.get("description", "")).split())[:200]
            yield f"{each['name']} {each['version']}: {advisory['id']}: mended in {mended}. {what}"


def main(arguments: list[str]) -> int:
    """Audits; arguments are `--strict` and then the program to ask with."""
    strict = arguments[:1] == ["--strict"]
    tool = arguments[1:] if strict else arguments
    with tempfile.TemporaryDirectory() as folder:
        wanted = requirements(Path(folder))
        for service in SERVICES:
            try:
                dependencies = ask(wanted, service, tool)
            except NoDataError as error:
                print(f"no advisories from {service}: {error}", file=sys.stderr)
                continue
            found = list(vulnerable(dependencies))
            print(*found, sep="\n", end="\n" if found else "")
            print(
                f"{len(dependencies)} dependencies, {len(found)} known vulnerabilities ({service})"
            )
            unknown = [each["name"] for each in dependencies if "skip_reason" in each]
            if unknown:
                print(f"NOT AUDITED: {', '.join(unknown)}", file=sys.stderr)
            return FOUND if found else NOT_AUDITED if unknown and strict else 0
    print(
        "NOT AUDITED: no advisories can be had from here, and nothing is known of any dependency",
        file=sys.stderr,
    )
    return NOT_AUDITED if strict else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
