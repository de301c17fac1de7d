-- KEYS: c:, s:. ARGV: session, time of creation, epoch, customer, life in ms, channel; how many live
-- sessions the customer may have (empty: any number), and what happens beyond that: 'end_oldest' or
-- 'refuse'; an epoch that is known to be over; since when a session must have been used to count (empty:
-- whenever); u:.
-- Answers 'done' and the customer, or why not. 'more' means that the call must be repeated. The sessions
-- that were ended come last, oldest first, each with the time of its creation.
local session, created, epoch, data, life, channel, max, when_full, over, since, uses = unpack(ARGV)
local customer = redis.call('GET', KEYS[1])
if customer and kind_of(customer) ~= 'c' then return { 'deleted' } end
if not customer or epoch_of(customer) ~= epoch then
  if customer and epoch_of(customer) ~= over then return { 'epoch', epoch_of(customer) } end
  -- Sessions that have all been ended, or whose customer was deleted by hand.
  redis.call('UNLINK', KEYS[2])
  redis.pcall('UNLINK', uses)
  if customer then data = string.sub(customer, 10) end
  customer = 'c' .. epoch .. data
  redis.call('SET', KEYS[1], customer, 'PX', life)
end
if redis.call('ZSCORE', KEYS[2], session) then return { 'id', string.sub(customer, 10) } end

-- For a service that never purges: of many sessions, some that expired over a day ago go at each sign-in.
if redis.call('ZCARD', KEYS[2]) > 100 then
  local long_ago = (redis.call('TIME')[1] - 86400) * 1000000
  for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, 9)) do
    if expires_of(member) < long_ago then remove(KEYS[2], uses, member) end
  end
end

local answer = { 'done', string.sub(customer, 10) }

-- Ends a session. The score is the time of its creation.
local function finish(member, score)
  if remove(KEYS[2], uses, member) == 1 and expires_of(member) > tonumber(created) then
    redis.call('PUBLISH', channel, 'session:' .. id_of(member))
    table.insert(answer, member)
    table.insert(answer, string.format('%.0f', tonumber(score)))
  end
end

-- Which sessions of a page count for the limit. A page holds members and their scores in turn.
local function counting(page)
  local ids, used, counts = {}, {}, {}
  if since ~= '' and #page > 0 then
    for place = 1, #page, 2 do table.insert(ids, packed_id_of(page[place])) end
    used = redis.call('HMGET', uses, unpack(ids))
  end
  for place = 1, #page, 2 do
    local last_use = math.max(tonumber(page[place + 1]), tonumber(used[(place + 1) / 2] or page[place + 1]))
    counts[place] = expires_of(page[place]) > tonumber(created)
      and (since == '' or last_use > tonumber(since))
  end
  return counts
end

local room = max ~= '' and tonumber(max) - 1
local count = redis.call('ZCARD', KEYS[2])
if when_full == 'refuse' and room < 0 then return { 'full' } end
if room and count > room then
  -- The newest ones that count stay. So many at most are looked at, and if that is not enough, those that
  -- do not count are removed, so that the server does not stand still.
  local live, newer, others = 0, 0, {}
  local at_most = math.max(room, 0) + 1000
  local wanted = when_full == 'refuse' and room + 1 or room
  while newer < count and newer < at_most and live < wanted do
    local page = redis.call('ZREVRANGE', KEYS[2], newer, newer + 99, 'WITHSCORES')
    local counts = counting(page)
    for place = 1, #page, 2 do
      if live < wanted then
        newer = newer + 1
        if counts[place] then
          live = live + 1
        else
          table.insert(others, { page[place], page[place + 1] })
        end
      end
    end
  end
  if when_full == 'refuse' and live > room then return { 'full' } end
  if live < wanted and newer < count then
    for _, other in ipairs(others) do finish(unpack(other)) end
    answer[1] = 'more'
    return answer
  end
  local older = when_full == 'refuse' and 0 or count - newer
  local page = older > 0 and redis.call('ZRANGE', KEYS[2], 0, math.min(older, 1000) - 1, 'WITHSCORES') or {}
  local counts = counting(page)
  for place = 1, #page, 2 do
    if counts[place] or older > 1000 then finish(page[place], page[place + 1]) end
  end
  if older > 1000 then answer[1] = 'more' return answer end
end
redis.call('ZADD', KEYS[2], created, session)
if redis.call('PTTL', KEYS[2]) < 0 then redis.call('PEXPIRE', KEYS[2], life) end
extend(KEYS[2], life)
extend(KEYS[1], life)
return answer
