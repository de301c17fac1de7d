-- ARGV: customer's id, customer. Answers 1, or 0 if the customer is not known.
local key = customer_key(ARGV[1])
if redis.call('EXISTS', key) == 0 then return 0 end
local has_sessions = redis.call('HEXISTS', key, 'deleted') == 0
redis.call('HSET', key, 'customer', ARGV[2])
if not has_sessions then forget(key) end
return 1
