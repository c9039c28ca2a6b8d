"""Apache Kafka's jars from Maven Central, in the cache.

Owns which version of what. Refuses to know how the broker is started.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from ops.stack.cache import cache_folder, fetched
from ops.stack.java import run_maven

KAFKA_VERSION: Final = "4.1.0"
_LOG4J_VERSION: Final = "2.24.3"
_PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
_WANTED: Final = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
    # without a binding of slf4j the broker says nothing
    ("org.apache.logging.log4j", "log4j-core", _LOG4J_VERSION),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", _LOG4J_VERSION),
)


def kafka_jars() -> Path:
    """Folder with the broker's jars; fetched with Maven when it is not there yet (54 MB).

    Raises:
        StackError: They are not there and cannot be fetched.
    """
    return fetched(cache_folder() / f"kafka-{KAFKA_VERSION}", _fetch_kafka)


def fetch_artifact(coordinates: str, folder: Path) -> Path:
    """One file of Maven Central (`group:artifact:version`), copied into an empty folder."""
    run_maven(
        f"{_PLUGIN}:copy", f"-Dartifact={coordinates}", f"-DoutputDirectory={folder}", cwd=folder
    )
    (jar,) = folder.glob("*.jar")
    return jar


def _fetch_kafka(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "pom.xml").write_text(_pom())
        run_maven(f"{_PLUGIN}:copy-dependencies", f"-DoutputDirectory={folder}", cwd=Path(scratch))
    for jar in folder.iterdir():
        jar.chmod(0o644)


def _pom() -> str:
    wanted = "".join(
        f"<dependency><groupId>{escape(group)}</groupId><artifactId>{escape(artifact)}</artifactId>"
        f"<version>{escape(version)}</version></dependency>"
        for group, artifact, version in _WANTED
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>cdrstream</groupId><artifactId>broker</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{wanted}</dependencies></project>"
    )
