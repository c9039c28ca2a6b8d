-- Who is talking now, as the workers' state has it: established calls without an end. Written a few
-- seconds behind, by whoever holds the partition; of no use for billing.

CREATE TABLE active_calls (
    call_id text PRIMARY KEY,
    partition int4 NOT NULL,
    caller_aor text NOT NULL,
    callee_aor text NOT NULL,
    recipient text NOT NULL,
    start_time timestamp NOT NULL,
    connect_time timestamp NOT NULL
);
CREATE INDEX active_calls_partition_index ON active_calls (partition);
