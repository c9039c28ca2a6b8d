-- What a reader lost with its slot: calls of that server and time range are suspect.

CREATE TABLE cdr_gaps (
    id bigserial PRIMARY KEY,
    server text NOT NULL,
    from_lsn text NOT NULL,
    to_lsn text NOT NULL,
    from_time timestamptz,
    to_time timestamptz,
    reason text NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (server, from_lsn, to_lsn)
);
