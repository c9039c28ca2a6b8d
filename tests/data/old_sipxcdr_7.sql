-- A SIPXCDR of version 7 in the state in which an old installation has it: the later fork's
-- columns, indexes under names of their own, a history of versions, rows of years.
-- Written from the description of the tables; names of indexes are made up.

CREATE TABLE version_history (version int4 PRIMARY KEY, applied date);
INSERT INTO version_history VALUES (2, '2006-05-04'), (4, '2007-08-01'), (6, '2009-02-10'), (7, '2010-03-05');

CREATE TABLE observer_state_events (
    id bigserial PRIMARY KEY, observer text NOT NULL, event_seq int8 NOT NULL,
    event_time timestamp NOT NULL, status int2 NOT NULL, msg text
);
INSERT INTO observer_state_events (observer, event_seq, event_time, status, msg)
VALUES ('proxy:5060', 0, '2024-03-04 08:00:00', 101, 'Restart');

CREATE TABLE call_state_events (
    id bigserial PRIMARY KEY, observer text NOT NULL, event_seq int8 NOT NULL,
    event_time timestamp NOT NULL, event_type char(1) NOT NULL, cseq int4 NOT NULL,
    call_id text NOT NULL, from_tag text, to_tag text, from_url text NOT NULL, to_url text NOT NULL,
    contact text, refer_to text, referred_by text, failure_status int2, failure_reason text,
    request_uri text, reference text, caller_internal bool, callee_route text, branch_id text,
    via_count int2
);
CREATE INDEX idx_cse_time ON call_state_events (event_time);

CREATE TABLE cdrs (
    id bigserial PRIMARY KEY, call_id text NOT NULL UNIQUE, from_tag text NOT NULL,
    to_tag text NOT NULL, caller_aor text NOT NULL, callee_aor text NOT NULL, start_time timestamp,
    connect_time timestamp, end_time timestamp, termination char(1), failure_status int2,
    failure_reason text, call_direction char(1), reference text, caller_contact text,
    callee_contact text, caller_internal bool, callee_route text,
    called_number text, gateway int
);
CREATE INDEX idx_cdrs_call ON cdrs (call_id);
CREATE INDEX idx_cdrs_start ON cdrs (start_time);

CREATE VIEW view_cdrs AS
SELECT id, caller_aor, callee_aor, start_time, connect_time, end_time,
    end_time - connect_time AS duration,
    termination, failure_status, failure_reason, call_direction
FROM cdrs;

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cdrremote') THEN
        CREATE ROLE cdrremote LOGIN;
    END IF;
END $$;
GRANT SELECT ON cdrs, view_cdrs TO cdrremote;

-- Years of records whose events are purged, and one whose events are still there.
INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, connect_time, end_time,
    termination, failure_status, reference, caller_internal, callee_route, called_number, gateway)
SELECT 'old-' || number || '@h', 'f', CASE number % 5 WHEN 0 THEN '1' ELSE 't' END,
    '"Old ' || number || '" <sip:2' || number || '@example.com>', '<sip:300@example.com>',
    timestamp '2023-01-01' + number * interval '1 hour',
    CASE number % 5 WHEN 0 THEN NULL ELSE timestamp '2023-01-01' + number * interval '1 hour 1 second' END,
    timestamp '2023-01-01' + number * interval '1 hour 2 minutes',
    CASE number % 5 WHEN 0 THEN 'F' ELSE 'C' END, CASE number % 5 WHEN 0 THEN 486 ELSE 0 END,
    '', number % 2 = 0, '', '+49' || number, number % 3
FROM generate_series(1, 2000) number;
INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time, end_time, termination,
    failure_status, failure_reason, called_number, gateway)
VALUES ('seen@h', 'f', '1', '<sip:a@example.com>', '<sip:b@example.com>', '2024-03-04 09:00:00',
    '2024-03-04 09:02:00', 'F', 408, 'Request Timeout', '300', 2);
