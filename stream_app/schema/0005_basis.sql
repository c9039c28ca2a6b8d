-- What a revision rests on besides events, so that a call which was forgotten can be taken up again
-- when something comes late: calls that it names and that are known, gaps, names of later uses.

ALTER TABLE cdr_provenance ADD COLUMN basis jsonb NOT NULL DEFAULT '{}';
