-- What is purged is found by an index: `cdrs` by start_time, hidden calls by when they were told.

CREATE INDEX cdr_provenance_hidden_index ON cdr_provenance (resolved_at)
    WHERE hidden_reason IS NOT NULL;
