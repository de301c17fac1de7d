-- ARGV: id, customer's id, new hash, old hash. Keeps the session under the new one.
local id, customer, new, old = unpack(ARGV)
local key = customer_key(customer)
local record = redis.call('HGET', key, 'session:' .. id)
if record and string.sub(record, 1, 64) == old then
  redis.call('HSET', key, 'session:' .. id, new .. string.sub(record, 65))
  redis.call('SET', session_key(id), new .. customer)
  redis.call('SET', token_key(new), id .. '\0' .. customer)
  redis.call('DEL', token_key(old))
end
return 0
