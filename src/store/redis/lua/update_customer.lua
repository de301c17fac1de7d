-- ARGV: customer's id, customer. Answers how many sessions the customer has.
local key = customer_key(ARGV[1])
if redis.call('EXISTS', key) == 0 then return 0 end
redis.call('HSET', key, 'customer', ARGV[2])
return redis.call('HLEN', key) - 1
