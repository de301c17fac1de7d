-- ARGV: customer's id, customer. Answers 1, or 0 if the customer is not known.
local key = customer_key(ARGV[1])
if redis.call('EXISTS', key) == 0 then return 0 end
redis.call('HSET', key, 'customer', ARGV[2])
return 1
