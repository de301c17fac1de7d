-- KEYS: the list of a minute. ARGV: how many entries at most. Moves the first entries behind the others, and
-- answers them, after the number of all entries.
local count = redis.call('LLEN', KEYS[1])
local answer = { tostring(count) }
for _ = 1, math.min(count, tonumber(ARGV[1])) do
  table.insert(answer, redis.call('LMOVE', KEYS[1], KEYS[1], 'LEFT', 'RIGHT'))
end
return answer
