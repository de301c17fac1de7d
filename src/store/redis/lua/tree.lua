-- What scripts do about sessions that were derived from others. `d:` is a sorted set of texts, all with the
-- score 0, so that those with one beginning are found together:
--
--   'C', a family, a child          of each live child, which is named as in the customer's set
--   'P', a session, its family      of each live session that has children, or had some
--
-- The first of the two has its length before it. A child is 'c', the family of its parent with its length,
-- and then what any session is. What is left of a child that is gone opens nothing.
--
-- An overlapping session, which was replaced and is still accepted, is a child of its own family, with 'o' before
-- it. Its record is rewritten a moment later. Until then the set also has the session as it was before, with a
-- score that ends it.

-- The beginning of texts about something.
local function about(kind, name) return kind .. struct.pack('>H', #name) .. name end

-- The texts that begin so.
local function beginning(key, text)
  return redis.call('ZRANGE', key, '[' .. text, '[' .. text .. '\255', 'BYLEX')
end

-- The text of a child.
local function child_entry(member)
  local len = struct.unpack('>H', member, 2)
  return 'C' .. string.sub(member, 2, 3 + len) .. member
end

-- The family of a live session that has children, if it has some.
local function family_of_parent(key, member)
  local text = about('P', member)
  local found = beginning(key, text)[1]
  return found and string.sub(found, #text + 1)
end

-- The children of a family that are in the customer's set.
local function children_of(key, sessions, family)
  local text, children = about('C', family), {}
  for _, entry in ipairs(beginning(key, text)) do
    local child = string.sub(entry, #text + 1)
    if redis.call('ZSCORE', sessions, child) then table.insert(children, child) end
  end
  return children
end

-- Ends the children of a family. Calls `on_end` with each of them, and the time of its creation.
local function end_children(key, sessions, uses, channel, family, on_end)
  for _, child in ipairs(children_of(key, sessions, family)) do
    local score = redis.call('ZSCORE', sessions, child)
    remove(sessions, uses, child)
    redis.call('PUBLISH', channel, 'session:' .. id_of(child))
    if on_end and is_child(child) then on_end(child, string.format('%.0f', tonumber(score) + 9007199254740992)) end
  end
  for _, entry in ipairs(beginning(key, about('C', family))) do redis.call('ZREM', key, entry) end
end

-- Ends overlapping sessions of a family: all but the `max` that end last, and those that ended before a time
-- (optional).
local function end_overlaps(key, sessions, uses, channel, family, max, before)
  local overlaps = {}
  for _, member in ipairs(children_of(key, sessions, family)) do
    local ends = overlap_end(redis.call('ZSCORE', sessions, member))
    if is_overlapping(member) then ends = expires_of(member) end
    if ends then table.insert(overlaps, { tonumber(ends), member }) end
  end
  table.sort(overlaps, function(one, other) return one[1] > other[1] end)
  -- A session that was just replaced may be there twice.
  local count, counted = 0, {}
  for _, overlap in ipairs(overlaps) do
    local id = packed_id_of(overlap[2])
    if not counted[id] then count = count + 1 end
    counted[id] = counted[id] or count
    if counted[id] > max or before and overlap[1] < before then
      remove(sessions, uses, overlap[2])
      redis.call('ZREM', key, about('C', family) .. overlap[2])
      redis.call('PUBLISH', channel, 'session:' .. id_of(overlap[2]))
    end
  end
end

-- Forgets what is kept of a session that has expired. Its children go on.
local function forget_in_trees(key, member)
  if is_child(member) then redis.call('ZREM', key, child_entry(member)) return end
  local family = family_of_parent(key, member)
  if family then redis.call('ZREM', key, about('P', member) .. family) end
end

-- Forgets what is kept of a session that is gone, and ends the children that it had.
local function end_tree(key, sessions, uses, channel, member, on_end)
  if redis.call('EXISTS', key) == 0 then return end
  if is_child(member) then redis.call('ZREM', key, child_entry(member)) return end
  local family = family_of_parent(key, member)
  if not family then return end
  redis.call('ZREM', key, about('P', member) .. family)
  end_children(key, sessions, uses, channel, family, on_end)
end
