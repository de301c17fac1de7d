-- ARGV: id, customer's id, hash, record, expires, customer.
local id, customer, hash, record, expires, data = unpack(ARGV)
local conflict = taken(id, hash)
if conflict then return conflict end
add(id, customer, hash, record, expires)
redis.call('HSET', customer_key(customer), 'customer', data)
return 'done'
