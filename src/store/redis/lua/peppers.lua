-- KEYS: peppers. ARGV: nothing, to read alone. Or a fingerprint, the moment from which its pepper is in
-- use, and the fingerprint that must be the last: empty if there must be none.
-- Answers the fingerprints and their moments, oldest first.
local fingerprint, since, after = unpack(ARGV)
local key = KEYS[1]
if fingerprint then
  local last = redis.call('LINDEX', key, -1) or ''
  if string.match(last, '^%S*') == after then
    redis.call('RPUSH', key, fingerprint .. ' ' .. since)
  end
end
return redis.call('LRANGE', key, 0, -1)
