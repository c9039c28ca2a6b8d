-- Schema version 7 of SIPXCDR, as proxies write to it and as other software reads it. Names and
-- types are an interface: nothing is added here, ours is in later files.
-- The UNIQUE of cdrs.call_id is also the index on call_id; a second one would only cost writes.

CREATE TABLE version_history (
    version int4 PRIMARY KEY,
    applied date
);

CREATE TABLE call_state_events (
    id bigserial PRIMARY KEY,
    observer text NOT NULL,
    event_seq int8 NOT NULL,
    event_time timestamp NOT NULL,
    event_type char(1) NOT NULL,
    cseq int4 NOT NULL,
    call_id text NOT NULL,
    from_tag text,
    to_tag text,
    from_url text NOT NULL,
    to_url text NOT NULL,
    contact text,
    refer_to text,
    referred_by text,
    failure_status int2,
    failure_reason text,
    request_uri text,
    reference text,
    caller_internal bool,
    callee_route text,
    branch_id text,
    via_count int2
);
CREATE INDEX call_state_events_event_time_index ON call_state_events (event_time);

CREATE TABLE observer_state_events (
    id bigserial PRIMARY KEY,
    observer text NOT NULL,
    event_seq int8 NOT NULL,
    event_time timestamp NOT NULL,
    status int2 NOT NULL,
    msg text
);

CREATE TABLE cdrs (
    id bigserial PRIMARY KEY,
    call_id text NOT NULL UNIQUE,
    from_tag text NOT NULL,
    to_tag text NOT NULL,
    caller_aor text NOT NULL,
    callee_aor text NOT NULL,
    start_time timestamp,
    connect_time timestamp,
    end_time timestamp,
    termination char(1),
    failure_status int2,
    failure_reason text,
    call_direction char(1),
    reference text,
    caller_contact text,
    callee_contact text,
    caller_internal bool,
    callee_route text
);
CREATE INDEX cdrs_start_time_index ON cdrs (start_time);

CREATE VIEW view_cdrs AS
SELECT id, caller_aor, callee_aor, start_time, connect_time, end_time,
    end_time - connect_time AS duration,
    termination, failure_status, failure_reason, call_direction
FROM cdrs;

-- Roles belong to the whole cluster: another database's migration may make this one meanwhile.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cdrremote') THEN
        CREATE ROLE cdrremote LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;
GRANT SELECT ON cdrs, view_cdrs TO cdrremote;

INSERT INTO version_history (version, applied) VALUES (7, current_date);
