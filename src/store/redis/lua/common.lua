-- The keys, and what several scripts do. It stands in front of each of them.
--
--   <prefix>t:<hash>                the session that a token opens: where it is kept, and its record
--   <prefix>i:<id>                  the customer, the expiry and the family of a session, and the hash of
--                                   its token. It stays when another session takes its place
--   <prefix>c:{<customer>}          the customer: `c` or, deleted, `d`; the epoch; JSON. `t` and the
--                                   epoch alone is what stays of a deleted customer without sessions
--   <prefix>s:{<customer>}          a sorted set of the customer's sessions, by the time of creation:
--                                   the id, and the time at which it expires. The scores of links and of
--                                   children are lower by 2^53, since they do not count for a limit. The
--                                   score of one that was just replaced, and overlaps with its successor, is
--                                   twice the end of the overlap, lower by 2^54
--   <prefix>u:{<customer>}          a hash: when sessions in that set were last used, by their ids. It is
--                                   there once a session was used
--   <prefix>f:{<customer>}<id>      the current session of a family, by the id of the first one
--   <prefix>d:{<customer>}          sessions that were derived from others: see `tree.lua`
--   <prefix>m:{<customer>}<id>      a list of the ids in a family that others have replaced
--   <prefix>g:{<customer>}<number>  sessions that a revocation has ended, to be removed in steps
--   <prefix>a:{<shard>}             the epoch of all customers of a shard
--   <prefix>e:{<shard>}             a sorted set of the minutes in which sessions expire; for each of them
--                                   <prefix>e:{<shard>}<minute>, a list of these sessions
--   <prefix>e:{<shard>}g            a list of the keys `g:`
--   <prefix>peppers                 a list of the fingerprints of peppers, oldest first, each with the
--                                   moment from which it was in use; the last one is in use
--
-- A session is live if it is in its customer's set, and if the epoch beside the customer is that of the
-- shard. All other keys only lead there: one that is left behind opens nothing. What is in braces tells a
-- cluster which keys belong together.
--
-- Identifiers are packed: `u` or `h`, 16 bytes and the text before them, or `=` and the text. Times are microseconds since 1970.
-- Keys expire a day after the sessions do. That decides nothing, and is for a service that never purges.

-- When a member of a set of sessions expires.
local function expires_of(member)
  local a, b, c, d, e, f, g, h = string.byte(member, -8, -1)
  if not h then return 0 end
  if a >= 128 then a = a - 256 end
  return (((((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256) + g) * 256 + h
end

-- The text of a packed identifier.
local function unpack_id(packed)
  local kind = string.sub(packed, 1, 1)
  if kind == '=' then return string.sub(packed, 2) end
  local hex = string.gsub(string.sub(packed, 2, 17), '.', function(byte)
    return string.format('%02x', string.byte(byte))
  end)
  if kind == 'u' then
    hex = table.concat({
      string.sub(hex, 1, 8), string.sub(hex, 9, 12), string.sub(hex, 13, 16), string.sub(hex, 17, 20),
      string.sub(hex, 21, 32),
    }, '-')
  end
  return string.sub(packed, 18) .. hex
end

-- Whether a member of a set of sessions ends with a family, which it has before its id.
local function is_child(member)
  local kind = string.sub(member, 1, 1)
  return kind == 'c' or kind == 'o'
end

-- Whether it is a child of its own family: it was replaced, and is still accepted.
local function is_overlapping(member) return string.sub(member, 1, 1) == 'o' end

-- The id of a member of a set of sessions, packed.
local function packed_id_of(member)
  local from = is_child(member) and 4 + struct.unpack('>H', member, 2) or 1
  return string.sub(member, from, -9)
end
local function id_of(member) return unpack_id(packed_id_of(member)) end

-- The end of the overlap of a session that was just replaced, by its score; nothing for any other.
local function overlap_end(score)
  score = tonumber(score)
  if score < -9007199254740992 then return string.format('%.0f', (score + 18014398509481984) / 2) end
end

-- Whether a session is in its customer's set, and no other has taken its place.
local function is_current(sessions_key, member)
  local score = redis.call('ZSCORE', sessions_key, member)
  return score and not overlap_end(score)
end

local function kind_of(customer) return string.sub(customer, 1, 1) end
local function epoch_of(customer) return string.sub(customer, 2, 9) end

-- Has a key live for at least so many milliseconds more.
local function extend(key, life)
  local left = redis.call('PTTL', key)
  if left >= 0 and left < tonumber(life) then redis.call('PEXPIRE', key, life) end
end

-- The time on this server's clock.
local function now_by_clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Removes a session from its customer's set, and its last use. Answers 1 if it was there.
local function remove(sessions_key, uses_key, member)
  local was_there = redis.call('ZREM', sessions_key, member)
  if was_there == 1 then redis.call('HDEL', uses_key, packed_id_of(member)) end
  return was_there
end

-- Forgets a customer without sessions. Of a deleted one it remembers that it is deleted.
local function forget(customer_key, sessions_key)
  if redis.call('EXISTS', sessions_key) == 1 then return end
  local customer = redis.call('GET', customer_key)
  if not customer then return end
  if kind_of(customer) == 'c' then
    redis.call('DEL', customer_key)
  else
    redis.call('SET', customer_key, 't' .. epoch_of(customer))
  end
end
