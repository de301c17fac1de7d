-- KEYS: c:, s:, f:, u:. ARGV: a session, epoch, channel, the id that was asked for. Ends the session, or that
-- which has taken its place. Answers 1 if it was live, the one that was ended, and 1 if there is a family.
local session, epoch, channel, asked_for = unpack(ARGV)
local family = redis.call('GET', KEYS[3])
local current = family or session
local customer = redis.call('GET', KEYS[1])
local was_there = remove(KEYS[2], KEYS[4], current) == 1
if was_there then
  redis.call('PUBLISH', channel, 'session:' .. asked_for)
  if current ~= session then redis.call('PUBLISH', channel, 'session:' .. id_of(current)) end
  forget(KEYS[1], KEYS[2])
end
local was_live = was_there and customer and epoch_of(customer) == epoch
return { was_live and 1 or 0, current, family and 1 or 0 }
