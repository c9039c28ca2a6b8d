-- Replays that were applied or taken back: who listens to the revisions hears of it, too.

ALTER TABLE cdr_replays ADD COLUMN swap int8, ADD COLUMN told_at timestamptz;
COMMENT ON COLUMN cdr_replays.swap IS
    'number of its newest apply or undo, rising over all replays; told revisions begin with it';
COMMENT ON COLUMN cdr_replays.told_at IS
    'when all that it swapped was told on the topic of revisions; null: not yet, or no swap';

ALTER TABLE cdr_history ADD COLUMN taken_back jsonb;
COMMENT ON COLUMN cdr_history.taken_back IS 'what undo changed: column to [before, after]';
