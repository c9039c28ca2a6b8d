-- Of a batch that was not accepted as a whole: calls that have the Call-ID of an earlier call which
-- the state had forgotten. The two have no event in common; whoever knows both calls as uses of one
-- Call-ID names the held one among the later uses.
SELECT told.call_id
FROM pg_temp.batch_provenance AS told JOIN cdr_provenance AS held USING (call_id)
WHERE told.events <> '[]' AND held.events <> '[]'
  AND NOT EXISTS (
    SELECT FROM jsonb_array_elements(held.events) AS before
    JOIN jsonb_array_elements(told.events) AS now
    ON before->'server' = now->'server' AND before->'id' IS NOT DISTINCT FROM now->'id')
  AND NOT coalesce(told.basis->'uses' ?| ARRAY(
    SELECT told.call_id || ';from-tag=' || (before->>'from_tag')
    FROM jsonb_array_elements(held.events) AS before), false)
