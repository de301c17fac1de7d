-- ARGV: id, customer's id, hash, record, expires, customer; the id of the old session.
-- Answers 'done' and the customer.
local id, customer, hash, record, expires, data, old = unpack(ARGV)
local owned_by = owner(old)
if not owned_by or redis.call('HEXISTS', customer_key(owned_by), 'session:' .. old) == 0 then
  return { 'absent' }
end
local conflict = taken(id, hash)
if conflict then return { conflict } end
add(id, customer, hash, record, expires)
-- The customer as we know them; what the caller has may be older.
redis.call('HSETNX', customer_key(customer), 'customer', data)
remove(old)
return { 'done', redis.call('HGET', customer_key(customer), 'customer') }
