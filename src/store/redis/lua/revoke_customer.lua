-- KEYS: c:, s:, g:, d:, u:, and optionally f: of the session to keep, and f: of its parent. ARGV: epoch, channel,
-- the customer's id; optionally the session to keep, the family of its tree, and its parent, which is empty if
-- it is not a child or the parent is not known.
-- Ends all sessions of a customer, however many there are, but for the one to keep or that which has taken its
-- place, and the tree that it belongs to. Answers 1 if any was live, and 1 if there are sessions to be removed.
local epoch, channel, id, keep, family, parent = unpack(ARGV)
local customer = redis.call('GET', KEYS[1])
redis.call('PUBLISH', channel, 'customer:' .. id)
local count = redis.call('ZCARD', KEYS[2])
if count == 0 then return { 0, 0 } end
keep = keep and (redis.call('GET', KEYS[6]) or keep)
local kept, root = {}, nil
if keep and redis.call('ZSCORE', KEYS[2], keep) then
  root = keep
  if is_child(keep) then root = redis.call('GET', KEYS[7]) or parent end
  kept = children_of(KEYS[4], KEYS[2], family)
  if root ~= '' and redis.call('ZSCORE', KEYS[2], root) then table.insert(kept, root) end
end
if count == #kept then return { 0, 0 } end
local left, left_of_children = redis.call('PTTL', KEYS[2]), redis.call('PTTL', KEYS[4])
local used = {}
for place, member in ipairs(kept) do used[place] = redis.call('HGET', KEYS[5], packed_id_of(member)) end
redis.call('RENAME', KEYS[2], KEYS[3])
redis.call('UNLINK', KEYS[4], KEYS[5])
for place, member in ipairs(kept) do
  if used[place] then redis.call('HSET', KEYS[5], packed_id_of(member), used[place]) end
  redis.call('ZADD', KEYS[2], redis.call('ZSCORE', KEYS[3], member), member)
  redis.call('ZREM', KEYS[3], member)
  if member ~= root then
    redis.call('ZADD', KEYS[4], 0, about('C', family) .. member)
  elseif #kept > 1 then
    redis.call('ZADD', KEYS[4], 0, about('P', member) .. family)
  end
end
if left >= 0 then
  redis.call('PEXPIRE', KEYS[2], left)
  redis.call('PEXPIRE', KEYS[5], left)
end
if left_of_children >= 0 then redis.call('PEXPIRE', KEYS[4], left_of_children) end
forget(KEYS[1], KEYS[2])
local were_live = customer and epoch_of(customer) == epoch
return { were_live and 1 or 0, 1 }
