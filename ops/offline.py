"""The commands that need files only: `resolve`, and `explain --from-rows`.

Owns how their options meet the configuration. Refuses to resolve: that is `ops.resolve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from callstate.config import ResolutionConfig, TimeCorrection
from ops.config import resolution_config
from ops.errors import OpsError
from ops.explain import Explained
from ops.invocation import Invocation
from ops.resolve import resolve_files, run
from ops.row_files import row_files
from ops.visible import visible


def run_resolve(
    invocation: Invocation,
    inputs: Sequence[str],
    *,
    reference: str | None,
    time_correction: TimeCorrection | None,
    form: str,
    out: str,
    provenance: str | None,
    dead_letters: str | None,
) -> None:
    """`cdrstream resolve`; what is not given as an option is taken from the configuration."""
    config = _rules(invocation)
    if time_correction is not None:
        config = replace(config, time_correction=time_correction)
    run(
        inputs,
        config=config,
        reference=reference or invocation.config.resolution.reference,
        form=form,
        out=out,
        provenance=provenance,
        dead_letters=dead_letters,
    )


def explain_rows(
    invocation: Invocation, call_id: str, inputs: Sequence[str], *, reference: str | None
) -> Explained:
    """One call as files tell it.

    Raises:
        OpsError: The files hold no such call.
    """
    reference = reference or invocation.config.resolution.reference
    resolved = resolve_files(row_files(inputs), _rules(invocation), reference, explaining=True)
    if call_id in resolved.reasons:
        provenance, cdr = resolved.reasons[call_id]
        _, hides, hidden = provenance.rule.partition("; hidden: ")
        columns = None if cdr is None else cdr.columns()
        return Explained(provenance.to_json(), columns, hidden if hides else "")
    letters = [letter for letter in resolved.letters if letter.effect.call_id == call_id]
    if letters:
        raise OpsError(
            f"call {visible(call_id)[:200]!r} has no CDR: {letters[0].effect.reason}",
            "its rows are dead letters: see them with `cdrstream resolve --dead-letters FILE`",
        )
    raise OpsError(
        f"no row of call {visible(call_id)[:200]!r} is in the input",
        "a Call-ID must be given exactly as the rows have it",
    )


def _rules(invocation: Invocation) -> ResolutionConfig:
    """The rules without names of servers: files bring their own."""
    return replace(resolution_config(invocation.config), servers=(), reference=None)
