-- Replays: what each one read and found, how far it has got, and what it replaced when it was
-- applied. Their shadow tables, replay_ID_..., are made and dropped by whoever runs them.

CREATE TABLE cdr_replays (
    id bigserial PRIMARY KEY,
    state text NOT NULL DEFAULT 'running',
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    plan jsonb NOT NULL,
    settings jsonb NOT NULL,
    result jsonb NOT NULL DEFAULT '{}',
    version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    applied_at timestamptz,
    undone_at timestamptz
);
COMMENT ON COLUMN cdr_replays.state IS 'running, done, applied, undone or dropped';

CREATE TABLE cdr_replay_parts (
    replay_id int8 NOT NULL REFERENCES cdr_replays ON DELETE CASCADE,
    partition int4 NOT NULL,
    next_offset int8 NOT NULL,
    rows_written int8 NOT NULL,
    done bool NOT NULL,
    state bytea,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (replay_id, partition)
);
COMMENT ON TABLE cdr_replay_parts IS 'where a replay that was killed goes on';

CREATE TABLE cdr_history (
    id bigserial PRIMARY KEY,
    replay_id int8 NOT NULL,
    call_id text NOT NULL,
    revision int8 NOT NULL,
    cdr jsonb,
    provenance jsonb,
    replaced_at timestamptz NOT NULL DEFAULT now(),
    undone_at timestamptz
);
COMMENT ON COLUMN cdr_history.revision IS 'of what the replay put in its place';
COMMENT ON COLUMN cdr_history.cdr IS 'the record as it was, null where there was none';
CREATE INDEX cdr_history_call_index ON cdr_history (call_id);
CREATE INDEX cdr_history_replay_index ON cdr_history (replay_id, id);

-- A record that a replay has put there gives way to one that knows more, and to nothing else.
ALTER TABLE cdr_provenance ADD COLUMN replay_id int8;
COMMENT ON COLUMN cdr_provenance.replay_id IS 'the replay that wrote this revision';
