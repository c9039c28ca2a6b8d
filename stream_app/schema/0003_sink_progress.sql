-- How far each partition has been written, in the same transaction as its CDRs. Whoever takes a
-- partition raises its epoch; a transaction of an older epoch finds no row to update and aborts.

CREATE TABLE sink_progress (
    topic text NOT NULL,
    partition int4 NOT NULL,
    epoch int8 NOT NULL,
    next_offset int8 NOT NULL DEFAULT 0,
    watermark timestamptz,
    counters jsonb NOT NULL DEFAULT '{}',
    holder text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON COLUMN sink_progress.watermark IS
    'every call that ended before this moment, and whose events came in time, is in cdrs';
