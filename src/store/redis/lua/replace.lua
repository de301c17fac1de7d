-- KEYS: c:, s:, f:, m:, d:, u:. ARGV: the old session, the new one, its time of creation and its score; epoch; life in
-- ms, that of the family; channel; the old id, and packed; how many live sessions the customer may have, what
-- happens beyond that, and since when a session must have been used to count, as for an insertion; the family;
-- and, if the old one overlaps, the score of what it was, the child that it becomes, and the score of that.
-- Answers 'done' and the customer, 'there' and the customer if that was done already, or why not: 'gone' if the
-- old one was not live. 'more' means that the call must be repeated. The sessions that a limit has ended come last, each with the time of its creation.
local old, new, created, score, epoch, life, family_life, channel, old_id, packed, max, when_full, since,
  family, score_of_old, child, score_of_child = unpack(ARGV)
local customer = redis.call('GET', KEYS[1])
if not customer or epoch_of(customer) ~= epoch then return { 'gone' } end
local answer = { 'done', string.sub(customer, 10) }
local left = redis.call('PTTL', KEYS[2])
if not is_current(KEYS[2], old) then
  -- The driver repeats a call whose answer was lost.
  local is_repeated = redis.call('GET', KEYS[3]) == new and redis.call('ZSCORE', KEYS[2], new)
  return is_repeated and { 'there', answer[2] } or { 'gone' }
end
answer[1] = make_room(KEYS[2], KEYS[5], KEYS[6], channel, tonumber(created), max, when_full, since, old, answer)
if answer[1] == 'full' then return { 'full' } end
if answer[1] == 'more' then return answer end
if child then
  -- So that scripts have little to do, also for a service that never purges. Clocks may be apart by five minutes.
  end_overlaps(KEYS[5], KEYS[2], KEYS[6], channel, family, 7, tonumber(created) - 300000000)
  redis.call('ZADD', KEYS[2], score_of_old, old, score_of_child, child)
  redis.call('ZADD', KEYS[5], 0, about('C', family) .. old, 0, child_entry(child))
else
  remove(KEYS[2], KEYS[6], old)
  end_overlaps(KEYS[5], KEYS[2], KEYS[6], channel, family, 0)
end
redis.call('ZADD', KEYS[2], score, new)
local left_of_trees = redis.call('PTTL', KEYS[5])
if left_of_trees >= -1 then
  if is_child(old) then
    redis.call('ZREM', KEYS[5], child_entry(old))
    redis.call('ZADD', KEYS[5], 0, child_entry(new))
  else
    local of_parent = family_of_parent(KEYS[5], old)
    if of_parent then redis.call('ZREM', KEYS[5], about('P', old) .. of_parent) end
    of_parent = of_parent or child and family
    if of_parent then redis.call('ZADD', KEYS[5], 0, about('P', new) .. of_parent) end
  end
  redis.call('PEXPIRE', KEYS[5], math.max(left_of_trees, tonumber(life)))
end
-- A set without members is gone, and the time that it had to live with it.
redis.call('PEXPIRE', KEYS[2], math.max(left, tonumber(life)))
extend(KEYS[1], life)
redis.call('SET', KEYS[3], new, 'PX', family_life)
redis.call('RPUSH', KEYS[4], packed)
redis.call('PEXPIRE', KEYS[4], math.max(redis.call('PTTL', KEYS[4]), tonumber(family_life)))
redis.call('PUBLISH', channel, 'session:' .. old_id)
return answer
