-- Who an agent's transaction is for, as row-level security asks. Set with `set_config(…, true)`, so
-- it ends with the transaction; unset, nobody.

CREATE FUNCTION agent_actor() RETURNS uuid STABLE LANGUAGE sql AS $$
    SELECT nullif(current_setting('shopkeeper.actor_id', true), '')::uuid
$$;

-- The user, or an id derived from a guest's secret.
CREATE FUNCTION agent_key() RETURNS uuid STABLE LANGUAGE sql AS $$
    SELECT nullif(current_setting('shopkeeper.actor_key', true), '')::uuid
$$;

CREATE FUNCTION agent_guest() RETURNS text STABLE LANGUAGE sql AS $$
    SELECT nullif(current_setting('shopkeeper.guest', true), '')
$$;

CREATE FUNCTION agent_may(p_scope text) RETURNS boolean STABLE LANGUAGE sql AS $$
    SELECT position(',' || p_scope || ','
                    in coalesce(current_setting('shopkeeper.scopes', true), '')) > 0
$$;

-- A thing belongs to a customer, or else to whoever holds the secret it was made with.
CREATE FUNCTION agent_owns(p_customer uuid, p_secret text) RETURNS boolean STABLE LANGUAGE sql AS $$
    SELECT coalesce(CASE WHEN p_customer IS NOT NULL THEN p_customer = agent_actor()
                         ELSE p_secret = agent_guest() END, false)
$$;
