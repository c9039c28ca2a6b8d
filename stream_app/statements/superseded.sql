-- Of a batch that was not accepted as a whole: calls of which the table holds something newer, a
-- higher revision or one that a replay has put there.
SELECT told.call_id
FROM pg_temp.batch_provenance AS told JOIN cdr_provenance AS held USING (call_id)
WHERE held.revision > told.revision
   OR (held.revision = told.revision AND held.replay_id IS NOT NULL)
