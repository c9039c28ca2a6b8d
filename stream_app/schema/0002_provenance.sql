-- Why each CDR says what it says. The row stays when its call is hidden, so that a revision that
-- comes late from a worker left behind is refused for hidden calls too.

CREATE TABLE cdr_provenance (
    call_id text PRIMARY KEY,
    revision int8 NOT NULL,
    hidden_reason text,
    rule text NOT NULL,
    missing text[] NOT NULL,
    suspect bool NOT NULL,
    servers text[] NOT NULL,
    offsets jsonb NOT NULL,
    legs jsonb NOT NULL,
    inversions jsonb NOT NULL,
    changed jsonb NOT NULL,
    notes jsonb NOT NULL,
    events jsonb NOT NULL,
    late_events int4 NOT NULL,
    events_dropped int4 NOT NULL,
    watermark timestamptz,
    resolved_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cdr_provenance IS 'why each CDR says what it says; one row a call, hidden ones too';
COMMENT ON COLUMN cdr_provenance.changed IS
    'what this revision changed in the CDR: column to [old, new]; empty in the first';
CREATE INDEX cdr_provenance_suspect_index ON cdr_provenance (call_id) WHERE suspect;
