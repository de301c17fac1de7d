
-- For an application that has a table of customers of its own, and shows it by the view
-- customer_session_customers. Its triggers call these two functions, in the transaction of the change.

-- Announces a change of a customer: no node uses a copy any more.
CREATE FUNCTION customer_session_announce_customer(id text) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO customer_session_changes (message) VALUES ('customer:' || id);
END
$$;

-- Ends all sessions of a customer who is deleted, and announces it.
CREATE FUNCTION customer_session_revoke_customer(id text) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE customer_session_epochs SET epoch = epoch + 1, has_remains = true
        WHERE customer_id = id;
    PERFORM customer_session_announce_customer(id);
END
$$;
