-- KEYS: c:, s:, f:, d:, u:. ARGV: a session, its family, epoch, channel, the id that was asked for. Ends the
-- session, or that which has taken its place, and the children. Answers 1 if it was live, the one that was
-- ended, 1 if there is a family, and the children that were live.
local session, family, epoch, channel, asked_for = unpack(ARGV)
local replaced = redis.call('GET', KEYS[3])
local current = replaced or session
local customer = redis.call('GET', KEYS[1])
local is_of_epoch = customer and epoch_of(customer) == epoch
local was_there = remove(KEYS[2], KEYS[5], current) == 1
if was_there then
  redis.call('PUBLISH', channel, 'session:' .. asked_for)
  if current ~= session then redis.call('PUBLISH', channel, 'session:' .. id_of(current)) end
end
local children = {}
local function on_end(child) if is_of_epoch then table.insert(children, child) end end
end_tree(KEYS[4], KEYS[2], KEYS[5], channel, current, on_end)
-- Also if the parent has expired, and was removed, or if a failover has lost that this one was replaced.
if not is_child(current) or is_overlapping(current) then
  end_children(KEYS[4], KEYS[2], KEYS[5], channel, family, on_end)
end
if was_there or #children > 0 then forget(KEYS[1], KEYS[2]) end
return { was_there and is_of_epoch and 1 or 0, current, replaced and 1 or 0, children }
