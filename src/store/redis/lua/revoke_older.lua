-- KEYS: c:, s:, d:, u:. ARGV: the scores from which and below which sessions end, epoch, channel, the customer's
-- id.
-- Ends some of these sessions. Answers 1 if there are more, and 1 if any was live.
local from, below, epoch, channel, id = unpack(ARGV)
local older = redis.call('ZRANGEBYSCORE', KEYS[2], from, '(' .. below, 'LIMIT', 0, 100)
if #older == 0 then return { 0, 0 } end
local customer = redis.call('GET', KEYS[1])
for _, member in ipairs(older) do
  remove(KEYS[2], KEYS[4], member)
  end_tree(KEYS[3], KEYS[2], KEYS[4], channel, member)
end
redis.call('PUBLISH', channel, 'customer:' .. id)
forget(KEYS[1], KEYS[2])
local were_live = customer and epoch_of(customer) == epoch
return { #older == 100 and 1 or 0, were_live and 1 or 0 }
