-- KEYS: c:, s:, f:, m:, u:. ARGV: the old session, the new one and its time of creation; epoch; life in ms, that
-- of the family; channel; the old id, and packed. Answers the customer, if the old one was live.
local old, new, created, epoch, life, family_life, channel, old_id, packed = unpack(ARGV)
local customer = redis.call('GET', KEYS[1])
if not customer or epoch_of(customer) ~= epoch then return false end
local left = redis.call('PTTL', KEYS[2])
if remove(KEYS[2], KEYS[5], old) == 0 then
  -- The driver repeats a call whose answer was lost.
  local is_repeated = redis.call('GET', KEYS[3]) == new and redis.call('ZSCORE', KEYS[2], new)
  return is_repeated and string.sub(customer, 10)
end
redis.call('ZADD', KEYS[2], created, new)
-- A set without members is gone, and the time that it had to live with it.
redis.call('PEXPIRE', KEYS[2], math.max(left, tonumber(life)))
extend(KEYS[1], life)
redis.call('SET', KEYS[3], new, 'PX', family_life)
redis.call('RPUSH', KEYS[4], packed)
redis.call('PEXPIRE', KEYS[4], math.max(redis.call('PTTL', KEYS[4]), tonumber(family_life)))
redis.call('PUBLISH', channel, 'session:' .. old_id)
return string.sub(customer, 10)
