-- ARGV: id, customer's id, hash, record, expires, customer; the id of the old session, and the
-- moment until which that id must lead to the new one. Answers 'done' and the customer.
local id, customer, hash, record, expires, data, old, family_end = unpack(ARGV)
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

local first = redis.call('GET', member_key(old)) or old
for _, member in ipairs({ old, id }) do
  redis.call('SET', member_key(member), first)
  redis.call('HSET', family_key(first), 'member:' .. member, '')
end
redis.call('HSET', family_key(first), 'current', id, 'customer', customer)
redis.call('ZADD', FAMILIES, 'GT', family_end, first)
return { 'done', redis.call('HGET', customer_key(customer), 'customer') }
