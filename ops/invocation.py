"""What every command is given besides its own options: configuration, logs, and a way to fail.

Owns `--config`, `--set` and `--debug` on every command and before it, the lazy reading of the
configuration, and the turning of an exception into one line, advice and exit code. Refuses to know
any command.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from ops.errors import EXIT_FAILED

if TYPE_CHECKING:
    from ops.config import Config
    from ops.config_sources import Loaded

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file. Default: cdrstream.toml here, then in /etc/cdrstream.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override one setting.", show_default=False),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the trace of a failure.")]
_COMMON: dict[str, tuple[Any, Any]] = {
    "config_file": (ConfigOption, None),
    "overrides": (SetOption, None),
    "debug": (DebugOption, False),
}


@dataclass(slots=True)
class Invocation:
    """One run of a command: the common options, and what they lead to."""

    config_file: Path | None = None
    overrides: tuple[str, ...] = ()
    debug: bool = False
    _loaded: Loaded | None = field(default=None, repr=False)

    def loaded(self) -> Loaded:
        """The effective configuration with its origins; read at the first call."""
        if self._loaded is None:
            from ops.config_sources import load  # noqa: PLC0415  pydantic is slow to load

            self._loaded = load(self.config_file, overrides=self.overrides)
            for notice in self._loaded.notices:
                typer.echo(f"notice: {notice}", err=True)
            if self.overrides:
                from ops import spoken_passwords  # noqa: PLC0415  libpq is slow to load

                if said := spoken_passwords.in_settings(self._loaded):
                    typer.echo(said, err=True)
        return self._loaded

    @property
    def config(self) -> Config:
        """The effective configuration."""
        return self.loaded().config

    def start_logs(self) -> None:
        """From here on the process logs as the configuration says."""
        from ops import logs  # noqa: PLC0415

        section = self.config.log
        logs.configure("debug" if self.debug else section.level, section.format)


_CLOSED_PIPE: Final = 141  # as a shell tells of SIGPIPE


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a command of a function whose first parameter is its `Invocation`.

    The function raises what went wrong; the user reads one line, and the trace with `--debug`.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]

    @functools.wraps(function)
    def run(context: typer.Context, **options: Any) -> None:
        common = {name: options.pop(name) for name in _COMMON}
        invocation = _merged(context.obj, common)
        try:
            function(invocation, **options)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Whoever read the output has enough (`| head`): nobody is left to be told anything.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_CLOSED_PIPE) from None
        except typer.Exit:
            raise
        except Exception as error:  # noqa: BLE001  the edge of the program
            fail(error, debug=invocation.debug)

    parameters = [
        inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        ),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
        *(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
            )
            for name, (annotation, default) in _COMMON.items()
        ),
    ]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # else inspection looks behind the wrapper
    return run


def _merged(before: Invocation | None, options: dict[str, Any]) -> Invocation:
    """The command's own options before those given in front of it."""
    before = before or Invocation()
    return Invocation(
        options["config_file"] or before.config_file,
        (*before.overrides, *(options["overrides"] or ())),
        options["debug"] or before.debug,
    )


def fail(error: BaseException, *, debug: bool) -> NoReturn:
    """One line for what went wrong, one for what to do; ends the process."""
    from ops.failures import describe  # noqa: PLC0415  only a failure needs it

    if debug:
        import traceback  # noqa: PLC0415

        from ops.redaction import scrub  # noqa: PLC0415

        typer.echo(scrub("".join(traceback.format_exception(error))), err=True)
    failure = describe(error)
    typer.echo(f"error: {failure.message}", err=True)
    if failure.advice:
        typer.echo(f"  {failure.advice}", err=True)
    if failure.unexpected and not debug:
        typer.echo("  run it again with --debug for the trace", err=True)
    sys.stdout.flush()
    raise typer.Exit(failure.exit_code or EXIT_FAILED)
