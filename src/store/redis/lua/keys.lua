-- The keys, and what several scripts do. It stands in front of each of them.
--
--   <prefix>token:<hash>      the session that a token opens: its id, NUL, its customer's id
--   <prefix>session:<id>      the hash of the session's token, and the id of its customer
--   <prefix>customer:<id>     a hash: `customer` is the customer as JSON, `session:<id>` one of
--                             the sessions: hash of the token, created, modified, expires
--   <prefix>expiry            a sorted set of session ids, by the moment they expire
--   <prefix>peppers           a set of fingerprints
--
-- The customer's hash is what counts: the first two only lead to it, and lead nowhere once it
-- is gone. Moments are microseconds since 1970; no key has a time to live, since that would be
-- the time of the server's clock.

local prefix = KEYS[1]
local EXPIRY = prefix .. 'expiry'

local function token_key(hash) return prefix .. 'token:' .. hash end
local function session_key(id) return prefix .. 'session:' .. id end
local function customer_key(id) return prefix .. 'customer:' .. id end

-- What is wrong with adding a session: 'id' or 'token' is taken.
local function taken(id, hash)
  if redis.call('EXISTS', session_key(id)) == 1 then return 'id' end
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
  local created, expires = string.match(record, '^ (%-?%d+) %S+ (%-?%d+)$')
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

-- Whether it was there. What only led to it goes, too.
local function remove(id)
  local customer, hash = owner(id)
  redis.call('ZREM', EXPIRY, id)
  if not customer then return false end
  redis.call('DEL', session_key(id), token_key(hash))
  local key = customer_key(customer)
  local removed = redis.call('HDEL', key, 'session:' .. id) == 1
  if removed and redis.call('HLEN', key) == 1 then redis.call('DEL', key) end
  return removed
end
