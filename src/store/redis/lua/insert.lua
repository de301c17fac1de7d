-- KEYS: c:, s:, d:, u:. ARGV: session, time of creation, score, epoch, customer, life in ms, channel; how many live
-- sessions the customer may have (empty: any number), and what happens beyond that: 'end_oldest' or
-- 'refuse'; an epoch that is known to be over; since when a session must have been used to count (empty:
-- whenever).
-- Answers 'done' and the customer, or why not. 'more' means that the call must be repeated. The sessions
-- that were ended come last, oldest first, each with the time of its creation.
local session, created, score, epoch, data, life, channel, max, when_full, over, since = unpack(ARGV)
local customer = redis.call('GET', KEYS[1])
if customer and kind_of(customer) ~= 'c' then return { 'deleted' } end
if not customer or epoch_of(customer) ~= epoch then
  if customer and epoch_of(customer) ~= over then return { 'epoch', epoch_of(customer) } end
  -- Sessions that have all been ended, or whose customer was deleted by hand.
  redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
  if customer then data = string.sub(customer, 10) end
  customer = 'c' .. epoch .. data
  redis.call('SET', KEYS[1], customer, 'PX', life)
end
if redis.call('ZSCORE', KEYS[2], session) then return { 'id', string.sub(customer, 10) } end

-- For a service that never purges: of many sessions, some that expired over a day ago go at each sign-in.
if redis.call('ZCARD', KEYS[2]) > 100 then
  local long_ago = (redis.call('TIME')[1] - 86400) * 1000000
  -- Of the oldest links, and of the oldest sessions.
  local first = redis.call('ZCARD', KEYS[2]) - redis.call('ZCOUNT', KEYS[2], LOWEST_SESSION, '+inf')
  for _, from in ipairs({ first, 0 }) do
    for _, member in ipairs(redis.call('ZRANGE', KEYS[2], from, from + 9)) do
      if expires_of(member) < long_ago then
        remove(KEYS[2], KEYS[4], member)
        forget_in_trees(KEYS[3], member)
      end
    end
  end
end

local answer = { 'done', string.sub(customer, 10) }
answer[1] = make_room(KEYS[2], KEYS[3], KEYS[4], channel, tonumber(created), max, when_full, since, nil, answer)
if answer[1] == 'full' then return { 'full' } end
if answer[1] == 'more' then return answer end
redis.call('ZADD', KEYS[2], score, session)
if redis.call('PTTL', KEYS[2]) < 0 then redis.call('PEXPIRE', KEYS[2], life) end
extend(KEYS[2], life)
extend(KEYS[1], life)
return answer
