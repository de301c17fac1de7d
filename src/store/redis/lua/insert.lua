-- KEYS: c:, s:, g:. ARGV: session, time of creation, epoch, customer, life in ms, channel; how many live
-- sessions the customer may have (empty: any number), and what happens beyond that: 'end_oldest' or
-- 'refuse'; an epoch that is known to be over.
-- Answers 'done', the customer, and 1 if there are sessions to be removed, or why not. 'more' means that
-- the call must be repeated. The sessions that were ended come last, oldest first.
local session, created, epoch, data, life, channel, max, when_full, over = unpack(ARGV)
local customer = redis.call('GET', KEYS[1])
if customer and kind_of(customer) ~= 'c' then return { 'deleted' } end
local ended_before = '0'
if not customer or epoch_of(customer) ~= epoch then
  if customer and epoch_of(customer) ~= over then return { 'epoch', epoch_of(customer) } end
  -- Sessions that have all been ended, or whose customer was deleted by hand.
  if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('RENAME', KEYS[2], KEYS[3])
    ended_before = '1'
  end
  if customer then
    data = string.sub(customer, 10)
  end
  customer = 'c' .. epoch .. data
  redis.call('SET', KEYS[1], customer, 'PX', life)
end
if redis.call('ZSCORE', KEYS[2], session) then return { 'id' } end

local answer = { 'done', string.sub(customer, 10), ended_before }
local room = max ~= '' and tonumber(max) - 1
local count = redis.call('ZCARD', KEYS[2])
if when_full == 'refuse' and room < 0 then return { 'full' } end
if room and count > room then
  -- The newest live ones stay. What is older than these is `older` sessions.
  local live, newer, now = 0, 0, tonumber(created)
  while newer < count do
    if when_full == 'end_oldest' and live >= room then break end
    local page = redis.call('ZREVRANGE', KEYS[2], newer, newer + 99)
    for _, member in ipairs(page) do
      if when_full == 'end_oldest' and live >= room then break end
      newer = newer + 1
      if expires_of(member) > now then live = live + 1 end
    end
    if when_full == 'refuse' and live > room then return { 'full' } end
  end
  local older = count - newer
  -- Of very many some are removed at a time, so that the server does not stand still.
  local page = older > 0 and redis.call('ZRANGE', KEYS[2], 0, math.min(older, 1000) - 1) or {}
  for _, member in ipairs(page) do
    local is_live = expires_of(member) > now
    if is_live or older > 1000 then redis.call('ZREM', KEYS[2], member) end
    if is_live then
      redis.call('PUBLISH', channel, 'session:' .. id_of(member))
      table.insert(answer, member)
    end
  end
  if older > 1000 then answer[1] = 'more' return answer end
end
redis.call('ZADD', KEYS[2], created, session)
if redis.call('PTTL', KEYS[2]) < 0 then redis.call('PEXPIRE', KEYS[2], life) end
extend(KEYS[2], life)
extend(KEYS[1], life)
return answer
