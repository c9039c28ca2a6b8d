"""Which licences the program's dependencies have, and whether all of them may be shipped with it.

Owns what is allowed. Reads the metadata of what is installed, from the program's own requirements
downwards; tools that only developers need are not looked at.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

# Ways in which packages write licences down that ask for no more than to be named.
ALLOWED = re.compile(
    r"(MIT|ISC|BSD|Apache|PSF|Python Software Foundation|MPL-2\.0|Mozilla Public|Repoze)",
    re.IGNORECASE,
)
# Used as a library and never changed: a user may put another version in its place.
ALLOWED_BY_NAME = {"psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}
EXTRAS = ("rocksdb",)


def dependencies(
    name: str = "cdrstream", extras: tuple[str, ...] = EXTRAS
) -> dict[str, Distribution]:
    """Everything that an installation brings, by normalised name."""
    found: dict[str, Distribution] = {}

    def look(wanted: str, extras: tuple[str, ...]) -> None:
        key = re.sub(r"[-_.]+", "-", wanted).lower()
        if key in found:
            return
        found[key] = distribution(wanted)
        for line in found[key].requires or ():
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                look(needed.name, tuple(needed.extras))

    look(name, extras)
    del found[name]
    return found


def licence(package: Distribution) -> str:
    """As the package tells it: SPDX where it has that, else its classifiers, else its own words."""
    told = package.metadata
    if expression := told.get("License-Expression"):
        return str(expression)
    classifiers = [
        line.rpartition("::")[2].strip()
        for line in told.get_all("Classifier") or ()
        if line.startswith("License ::")
    ]
    words = (told.get("License") or "").strip().split("\n")[0]
    return ", ".join(classifiers) or words or "not told"


def refused(packages: dict[str, Distribution]) -> Iterator[str]:
    """What may not be shipped, or says nothing."""
    for name, package in sorted(packages.items()):
        text = licence(package)
        if ALLOWED_BY_NAME.get(name) == text:
            continue
        # Every part of `A AND (B OR C)` must do: stricter than need be with alternatives.
        parts = re.split(r"\s+AND\s+|\s+OR\s+|, ", text.replace("(", "").replace(")", ""))
        if not all(ALLOWED.search(part) for part in parts) or re.search(r"\bA?GPL", text):
            yield f"{name} {package.version}: {text}"


def main() -> int:
    """Prints a line each; 1 where one is refused."""
    try:
        packages = dependencies()
    except PackageNotFoundError as error:
        print(f"not installed: {error}", file=sys.stderr)
        return 1
    for name, package in sorted(packages.items()):
        print(f"{name:<20} {package.version:<12} {licence(package)}")
    wrong = list(refused(packages))
    for line in wrong:
        print(f"not allowed: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
