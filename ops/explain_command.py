"""The command `explain`: finds a call and its reasons, in the sink or in files, and prints them.

Owns where they are looked for. Refuses to word the reasons (`ops.explain`) and to ask the sink
(`ops.explain_sink`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.console import Console

from ops import explain
from ops.explain import Explained
from ops.explain_sink import from_sink
from ops.invocation import Invocation


def run(
    invocation: Invocation,
    call_id: str,
    *,
    from_rows: Sequence[str] | None,
    reference: str | None,
    as_json: bool,
) -> None:
    """Prints one call.

    Raises:
        OpsError: The call is not known; the message says where was looked and what is near.
    """
    if from_rows:
        from ops.offline import explain_rows  # noqa: PLC0415  the other way needs no loader

        found = explain_rows(invocation, call_id, from_rows, reference=reference)
    else:
        config = invocation.config
        found = from_sink(config.sink_dsn(), call_id, config.sink.schema_name)
    show(found, as_json=as_json)


def show(found: Explained, *, as_json: bool) -> None:
    """Prints to standard output, as text of 80 columns or as one JSON object."""
    if as_json:
        # ASCII only: what a stranger wrote into a header cannot reach the terminal.
        sys.stdout.write(json.dumps(explain.as_object(*found), indent=2) + "\n")
        return
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False, markup=False, emoji=False)
    for line in explain.render(*found):
        console.print(line)
