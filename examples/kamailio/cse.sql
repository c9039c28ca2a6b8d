-- Once, in the database SIPXCDR of each proxy's server, as its owner:
--   psql -v ON_ERROR_STOP=1 -f cse.sql SIPXCDR
-- The role may add rows and nothing else. Give it a password: ALTER ROLE kamailio PASSWORD '...'.
-- It can be run again, and has to be with a newer cse.cfg.

-- A header's bytes, sent as base64, as text. What is not UTF-8 is kept readable and whole, byte by
-- byte (`\374`): a row is never refused because of what a stranger wrote. Anything that is not
-- base64 is Kamailio's word for a header that is absent.
CREATE OR REPLACE FUNCTION cse_text(encoded text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog AS $$
DECLARE
    bytes bytea;
BEGIN
    bytes := decode(encoded, 'base64');
    BEGIN
        RETURN convert_from(bytes, 'UTF8');
    EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
        RETURN encode(bytes, 'escape');
    END;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN '';
END $$;

-- Adds a row that an INSERT of its own did not get in: null, or why the row itself cannot be a row.
-- Any other error (no room, read-only, a lock, a right, a column) is raised: the row can wait for its
-- end. No row may stand at the head of the queue for ever.
CREATE OR REPLACE FUNCTION cse_add(row_sql text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE row_sql;
    RETURN NULL;
EXCEPTION
    WHEN data_exception OR integrity_constraint_violation OR raise_exception
        OR program_limit_exceeded OR syntax_error THEN
    RETURN SQLERRM;
END $$;
REVOKE EXECUTE ON FUNCTION cse_add(text) FROM PUBLIC;

DO $$ BEGIN
    CREATE ROLE kamailio LOGIN;
EXCEPTION WHEN duplicate_object THEN
    NULL;
END $$;
-- Kamailio gives an answer up after 5 s (`timeout` in cse.cfg) and tries the row again: by then the
-- server must have given it up too, or a row that waited for a lock is written twice.
ALTER ROLE kamailio SET statement_timeout = '4s';
GRANT INSERT ON call_state_events, observer_state_events TO kamailio;
GRANT USAGE ON SEQUENCE call_state_events_id_seq, observer_state_events_id_seq TO kamailio;
GRANT EXECUTE ON FUNCTION cse_text(text), cse_add(text) TO kamailio;
