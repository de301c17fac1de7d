-- ARGV: a moment, how many at most. Answers how many sessions and families were due, and how many of
-- these were there: what is left of a customer who was deleted by hand goes uncounted.
-- The server's clock bounds the moment: that of the caller may be wrong.
local time = redis.call('TIME')
local before = math.min(tonumber(ARGV[1]), time[1] * 1000000 + time[2])
local limit = tonumber(ARGV[2])
local function due(set, at_most)
  return redis.call('ZRANGEBYSCORE', set, '-inf', string.format('%d', before), 'LIMIT', 0, at_most)
end

local sessions = due(EXPIRY, limit)
local purged = 0
for _, id in ipairs(sessions) do
  if remove(id) then purged = purged + 1 end
end
-- A family does not end before its last session expires.
local families = due(FAMILIES, limit - #sessions)
for _, first in ipairs(families) do
  for _, field in ipairs(redis.call('HKEYS', family_key(first))) do
    local member = string.match(field, '^member:(.*)$')
    if member then redis.call('DEL', member_key(member)) end
  end
  redis.call('DEL', family_key(first))
  redis.call('ZREM', FAMILIES, first)
end
return { #sessions + #families, purged + #families }
