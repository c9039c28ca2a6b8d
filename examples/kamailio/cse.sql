-- Once, in the database SIPXCDR of each proxy's server, as its owner:
--   psql -v ON_ERROR_STOP=1 -f cse.sql SIPXCDR
-- The role may add rows and nothing else. Give it a password: ALTER ROLE kamailio PASSWORD '...'.

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

DO $$ BEGIN
    CREATE ROLE kamailio LOGIN;
EXCEPTION WHEN duplicate_object THEN
    NULL;
END $$;
GRANT INSERT ON call_state_events, observer_state_events TO kamailio;
GRANT USAGE ON SEQUENCE call_state_events_id_seq, observer_state_events_id_seq TO kamailio;
GRANT EXECUTE ON FUNCTION cse_text(text) TO kamailio;
