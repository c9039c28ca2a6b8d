-- One batch from the temporary tables into ours and `cdrs`. What `cdr_provenance` does not accept
-- (a lower revision, the same one unchanged, or another call) does not reach `cdrs` either.
WITH accepted AS (
    INSERT INTO cdr_provenance AS held (
        call_id, revision, hidden_reason, rule, missing, suspect, servers, offsets, legs,
        inversions, changed, notes, events, late_events, events_dropped, watermark, basis
    )
    SELECT
        call_id, revision, hidden_reason, rule, missing, suspect, servers, offsets, legs,
        inversions, changed, notes, events, late_events, events_dropped, watermark, basis
    FROM pg_temp.batch_provenance
    ON CONFLICT (call_id) DO UPDATE SET
        revision = excluded.revision,
        hidden_reason = excluded.hidden_reason,
        rule = excluded.rule,
        missing = excluded.missing,
        suspect = excluded.suspect,
        servers = excluded.servers,
        offsets = excluded.offsets,
        legs = excluded.legs,
        inversions = excluded.inversions,
        changed = excluded.changed,
        notes = excluded.notes,
        events = excluded.events,
        late_events = excluded.late_events,
        events_dropped = excluded.events_dropped,
        watermark = excluded.watermark,
        basis = excluded.basis,
        replay_id = NULL,
        resolved_at = now()
    WHERE (excluded.revision > held.revision
        OR (excluded.revision = held.revision
            AND held.replay_id IS NULL
            AND (excluded.hidden_reason, excluded.rule, excluded.missing, excluded.suspect,
                 excluded.offsets, excluded.events)
                IS DISTINCT FROM
                (held.hidden_reason, held.rule, held.missing, held.suspect,
                 held.offsets, held.events)))
      -- Another call that has the Call-ID of an earlier one is told apart: see reused.sql.
      AND (excluded.events = '[]' OR held.events = '[]'
        OR EXISTS (
            SELECT FROM jsonb_array_elements(held.events) AS before
            JOIN jsonb_array_elements(excluded.events) AS now
            ON before->'server' = now->'server' AND before->'id' IS NOT DISTINCT FROM now->'id')
        OR coalesce(excluded.basis->'uses' ?| ARRAY(
            SELECT excluded.call_id || ';from-tag=' || (before->>'from_tag')
            FROM jsonb_array_elements(held.events) AS before), false))
    RETURNING call_id, hidden_reason, xmax = 0 AS is_new
), written AS (
    INSERT INTO cdrs (
        call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, connect_time, end_time,
        termination, failure_status, failure_reason, call_direction, reference, caller_contact,
        callee_contact, caller_internal, callee_route
    )
    SELECT
        call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, connect_time, end_time,
        termination, failure_status, failure_reason, call_direction, reference, caller_contact,
        callee_contact, caller_internal, callee_route
    FROM pg_temp.batch_cdrs JOIN accepted USING (call_id)
    ON CONFLICT (call_id) DO UPDATE SET
        from_tag = excluded.from_tag,
        to_tag = excluded.to_tag,
        caller_aor = excluded.caller_aor,
        callee_aor = excluded.callee_aor,
        start_time = excluded.start_time,
        connect_time = excluded.connect_time,
        end_time = excluded.end_time,
        termination = excluded.termination,
        failure_status = excluded.failure_status,
        failure_reason = excluded.failure_reason,
        call_direction = excluded.call_direction,
        reference = excluded.reference,
        caller_contact = excluded.caller_contact,
        callee_contact = excluded.callee_contact,
        caller_internal = excluded.caller_internal,
        callee_route = excluded.callee_route
    RETURNING xmax = 0 AS is_new
), removed AS (
    DELETE FROM cdrs USING accepted
    WHERE cdrs.call_id = accepted.call_id AND accepted.hidden_reason IS NOT NULL
    RETURNING cdrs.call_id
)
SELECT
    (SELECT count(*) FROM written WHERE is_new) AS inserted,
    (SELECT count(*) FROM written WHERE NOT is_new) AS revised,
    (SELECT count(*) FROM accepted WHERE hidden_reason IS NOT NULL) AS hidden,
    (SELECT count(*) FROM removed) AS removed,
    (SELECT count(*) FROM accepted) AS accepted,
    -- Under the batch's lock: no apply or undo comes between this and the commit.
    (SELECT coalesce(max(swap), 0) FROM cdr_replays) AS swap
