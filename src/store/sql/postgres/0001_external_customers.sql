
-- For an application that has a table of customers of its own, and shows it by the view
-- customer_session_customers. Its triggers call these two functions, in the transaction of the change.

-- Announces a change of a customer: no node uses a copy any more.
CREATE FUNCTION customer_session_announce_customer(id text) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO customer_session_changes (message) VALUES ('customer:' || id);
END
$$;

-- Ends all sessions of a customer who is deleted, and announces it. The epoch is added if there is none,
-- so that a sign-in under way notices.
CREATE FUNCTION customer_session_revoke_customer(id text) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO customer_session_epochs AS e (customer_id) VALUES (id)
        ON CONFLICT (customer_id) DO UPDATE SET epoch = e.epoch + 1, has_remains = true;
    PERFORM customer_session_announce_customer(id);
END
$$;
