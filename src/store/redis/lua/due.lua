-- KEYS: e:. ARGV: a minute, how many entries at most, and the last list that was looked at (optional).
-- Moves the first entries of the next list behind the others, and answers them, after the list's name and
-- the number of all its entries. An empty answer means that nothing is due.
local from = ARGV[3] and '(' .. ARGV[3] or '-inf'
while true do
  local minute = redis.call('ZRANGEBYSCORE', KEYS[1], from, ARGV[1], 'LIMIT', 0, 1)[1]
  if not minute then return {} end
  local list = KEYS[1] .. minute
  local count = redis.call('LLEN', list)
  if count == 0 then
    redis.call('ZREM', KEYS[1], minute)
  else
    local answer = { minute, tostring(count) }
    for _ = 1, math.min(count, tonumber(ARGV[2])) do
      table.insert(answer, redis.call('LMOVE', list, list, 'LEFT', 'RIGHT'))
    end
    return answer
  end
end
