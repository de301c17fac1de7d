-- KEYS: c:, s:. ARGV: a session. If it is one of the customer's, answers the customer, and the end of its
-- overlap if it was just replaced.
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
local customer = score and redis.call('GET', KEYS[1])
return customer and { customer, overlap_end(score) or false }
