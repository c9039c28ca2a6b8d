"""What a command tells its user when it cannot go on: one line, one line of advice, one exit code.

Owns the errors of `ops` and the wording of those that libraries raise. Refuses to know who prints.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

Retry = Literal["timed", "manual", "never"]


class OpsError(Exception):
    """A command failed for a reason that its user can act upon.

    Attributes:
        advice: One line that says what to do; empty where the message says it all.
        retry: `timed` heals by itself, `manual` needs an operator, `never` is a defect.
        exit_code: What the process ends with.
    """

    exit_code: ClassVar[int] = EXIT_FAILED
    retry: ClassVar[Retry] = "manual"

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class UsageError(OpsError):
    """The command line asks for something that cannot be."""

    exit_code = EXIT_USAGE
    retry: ClassVar[Retry] = "never"


class ConfigError(UsageError):
    """A setting is unknown or wrong; the message names setting, value and what is allowed."""
