-- Where COPY puts a batch before the guarded upsert; of this connection alone, empty after commit.
CREATE TEMPORARY TABLE IF NOT EXISTS batch_cdrs (
    call_id text, from_tag text, to_tag text, caller_aor text, callee_aor text,
    start_time timestamp, connect_time timestamp, end_time timestamp, termination text,
    failure_status int2, failure_reason text, call_direction text, reference text,
    caller_contact text, callee_contact text, caller_internal bool, callee_route text
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS batch_provenance (
    call_id text, revision int8, hidden_reason text, rule text, missing text[], suspect bool,
    servers text[], offsets jsonb, legs jsonb, inversions jsonb, changed jsonb,
    notes jsonb, events jsonb,
    late_events int4, events_dropped int4, watermark timestamptz, basis jsonb
) ON COMMIT DELETE ROWS
