-- ARGV: a moment, how many at most. Answers how many were removed.
local purged = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  if remove(id) then purged = purged + 1 end
end
return purged
