-- The keys, and what several scripts do. It stands in front of each of them.
--
--   <prefix>token:<hash>      the session that a token opens: its id, NUL, its customer's id
--   <prefix>session:<id>      the hash of the session's token, and the id of its customer
--   <prefix>customer:<id>     a hash: `customer` is the customer as JSON, `session:<id>` one of
--                             the sessions: hash of the token, created, modified, expires, end. Of
--                             a deleted customer without sessions `deleted` alone is left
--   <prefix>expiry            a sorted set of session ids, by the moment they expire
--   <prefix>member:<id>       the id of the first session of a family of two or more
--   <prefix>family:<id>       a hash, by the id of the first: `current`, the id of the last session,
--                             `customer`, its customer's id, and `member:<id>` of each session
--   <prefix>families          a sorted set of the ids of first sessions, by the family's end
--   <prefix>peppers           a list of the fingerprints of peppers, oldest first, each with the moment
--                             from which it was in use; the last one is in use
--
-- The customer's hash is what counts: the first two only lead to it, and lead nowhere once it
-- is gone. Moments are microseconds since 1970. No key has a time to live: that would be the time
-- of the server's clock, and a server that evicts such keys when its memory is full would sign
-- customers out, or forget which session has taken the place of one that is revoked.

local prefix = KEYS[1]
local EXPIRY = prefix .. 'expiry'
local FAMILIES = prefix .. 'families'

local function token_key(hash) return prefix .. 'token:' .. hash end
local function session_key(id) return prefix .. 'session:' .. id end
local function customer_key(id) return prefix .. 'customer:' .. id end
local function member_key(id) return prefix .. 'member:' .. id end
local function family_key(first) return prefix .. 'family:' .. first end

-- The session that an id leads to: the last of its family. Its customer's id, too, if there is a
-- family.
local function current(id)
  local first = redis.call('GET', member_key(id))
  if not first then return id end
  local family = redis.call('HMGET', family_key(first), 'current', 'customer')
  return family[1] or id, family[2]
end

-- What is wrong with adding a session: 'id' or 'token' is taken. An id that leads to a family leads
-- to no other session.
local function taken(id, hash)
  if redis.call('EXISTS', session_key(id), member_key(id)) > 0 then return 'id' end
  if redis.call('EXISTS', token_key(hash)) == 1 then return 'token' end
end

local function add(id, customer, hash, record, expires)
  redis.call('SET', token_key(hash), id .. '\0' .. customer)
  redis.call('SET', session_key(id), hash .. customer)
  redis.call('HSET', customer_key(customer), 'session:' .. id, hash .. record)
  redis.call('ZADD', EXPIRY, expires, id)
end

-- The id of a session's customer.
local function owner(id)
  local leads_to = redis.call('GET', session_key(id))
  return leads_to and string.sub(leads_to, 65), leads_to and string.sub(leads_to, 1, 64)
end

-- When a session was created, and when it expires. Damaged ones were created and expire first.
local function times(record)
  local created, expires = string.match(record .. ' ', '^ (%-?%d+) %S+ (%-?%d+) ')
  return tonumber(created or 0), tonumber(expires or 0)
end

-- The record of a session.
local function record_of(id)
  local customer = owner(id)
  local kept = customer and redis.call('HGET', customer_key(customer), 'session:' .. id)
  return kept and string.sub(kept, 65)
end

-- The sessions of a customer, in no order.
local function sessions_of(customer)
  local sessions = {}
  local fields = redis.call('HGETALL', customer_key(customer))
  for place = 1, #fields, 2 do
    if string.sub(fields[place], 1, 8) == 'session:' then
      local record = string.sub(fields[place + 1], 65)
      local created, expires = times(record)
      table.insert(sessions, {
        id = string.sub(fields[place], 9), record = record, created = created, expires = expires,
      })
    end
  end
  return sessions
end

-- The time at which a customer was deleted, if it is; nil and an error if it is not JSON.
local function deleted_at(customer)
  local decoded, fields = pcall(cjson.decode, customer)
  if not decoded or type(fields) ~= 'table' then
    return nil, redis.error_reply('CORRUPT the customer is not JSON')
  end
  return fields.deleted_at ~= cjson.null and fields.deleted_at or nil
end

-- Forgets a customer without sessions. Of a deleted one it remembers that it is deleted.
local function forget(key)
  local deleted = deleted_at(redis.call('HGET', key, 'customer') or '')
  redis.call('DEL', key)
  if deleted then redis.call('HSET', key, 'deleted', tostring(deleted)) end
end

-- Whether it was there. What only led to it goes, too.
local function remove(id)
  local customer, hash = owner(id)
  redis.call('ZREM', EXPIRY, id)
  if not customer then return false end
  redis.call('DEL', session_key(id), token_key(hash))
  local key = customer_key(customer)
  local removed = redis.call('HDEL', key, 'session:' .. id) == 1
  if removed and redis.call('HLEN', key) == 1 and redis.call('HEXISTS', key, 'customer') == 1 then
    forget(key)
  end
  return removed
end
