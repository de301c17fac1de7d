-- ARGV: a moment, how many at most. Answers how many sessions and families were due, how many of
-- these were there (what is left of a customer who was deleted by hand goes uncounted), and 1 if part
-- of a family is left.
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
-- A family does not end before its last session expires. One that was rotated often is removed in
-- steps, so that the server does not stand still.
local ended, more = 0, 0
local families = due(FAMILIES, limit - #sessions)
for _, first in ipairs(families) do
  local key, cursor, removed = family_key(first), '0', 0
  repeat
    local page = redis.call('HSCAN', key, cursor, 'COUNT', 100)
    cursor = page[1]
    for place = 1, #page[2], 2 do
      local member = string.match(page[2][place], '^member:(.*)$')
      if member then
        redis.call('DEL', member_key(member))
        redis.call('HDEL', key, page[2][place])
        removed = removed + 1
      end
    end
  until cursor == '0' or removed > 0
  if cursor == '0' then
    redis.call('DEL', key)
    redis.call('ZREM', FAMILIES, first)
    ended = ended + 1
  else
    more = 1
  end
end
return { #sessions + ended, purged + ended, more }
