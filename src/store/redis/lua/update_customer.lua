-- KEYS: c:, s:. ARGV: 'c' or 'd'; customer; channel; the customer's id. Answers 1, or 0 if the customer is
-- not known.
local customer = redis.call('GET', KEYS[1])
if not customer then return 0 end
local left = redis.call('PTTL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1] .. epoch_of(customer) .. ARGV[2])
-- That a customer is deleted is remembered beyond the sessions.
if ARGV[1] == 'c' and left >= 0 then redis.call('PEXPIRE', KEYS[1], left) end
forget(KEYS[1], KEYS[2])
redis.call('PUBLISH', ARGV[3], 'customer:' .. ARGV[4])
return 1
