-- KEYS: c:, s:. ARGV: a time, epoch, channel, the customer's id. Ends some sessions that were created
-- before. Answers 1 if there are more, and 1 if any was live.
local time, epoch, channel, id = unpack(ARGV)
local older = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. time, 'LIMIT', 0, 100)
if #older == 0 then return { 0, 0 } end
local customer = redis.call('GET', KEYS[1])
redis.call('ZREM', KEYS[2], unpack(older))
redis.call('PUBLISH', channel, 'customer:' .. id)
forget(KEYS[1], KEYS[2])
local were_live = customer and epoch_of(customer) == epoch
return { #older == 100 and 1 or 0, were_live and 1 or 0 }
