-- KEYS: c:, s:, g:, f:, u:. ARGV: epoch, channel, the customer's id, the session to keep (optional).
-- Ends all sessions of a customer, however many there are, but for the one to keep or that which has
-- taken its place. Answers 1 if any was live, and 1 if there are sessions to be removed.
local epoch, channel, id, keep = unpack(ARGV)
local customer = redis.call('GET', KEYS[1])
redis.call('PUBLISH', channel, 'customer:' .. id)
local count = redis.call('ZCARD', KEYS[2])
if count == 0 then return { 0, 0 } end
keep = keep and (redis.call('GET', KEYS[4]) or keep)
local kept = keep and redis.call('ZSCORE', KEYS[2], keep)
if kept and count == 1 then return { 0, 0 } end
local left = redis.call('PTTL', KEYS[2])
local used = kept and redis.call('HGET', KEYS[5], packed_id_of(keep))
redis.call('RENAME', KEYS[2], KEYS[3])
redis.call('UNLINK', KEYS[5])
if kept then
  redis.call('ZREM', KEYS[3], keep)
  redis.call('ZADD', KEYS[2], kept, keep)
  if used then redis.call('HSET', KEYS[5], packed_id_of(keep), used) end
  if left >= 0 then
    redis.call('PEXPIRE', KEYS[2], left)
    redis.call('PEXPIRE', KEYS[5], left)
  end
else
  forget(KEYS[1], KEYS[2])
end
local were_live = customer and epoch_of(customer) == epoch
return { were_live and 1 or 0, 1 }
