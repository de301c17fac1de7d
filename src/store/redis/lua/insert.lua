-- ARGV: id, customer's id, hash, record, expires, customer; the moment at which the session is
-- created, how many live sessions the customer may have (empty: any number), and what happens
-- beyond that: 'end_oldest' or 'refuse'.
-- Answers 'done', the customer, and the ids and records of the sessions that were ended.
local id, customer, hash, record, expires, data, now, max, when_full = unpack(ARGV)
local conflict = taken(id, hash)
if conflict then return { conflict } end
local key = customer_key(customer)
local known = redis.call('HMGET', key, 'customer', 'deleted')
data = known[1] or data
local deleted, damaged = deleted_at(data)
if damaged then return damaged end
if deleted or known[2] then return { 'deleted' } end

local answer = { 'done', data }
if max ~= '' then
  local live = {}
  for _, session in ipairs(sessions_of(customer)) do
    if session.expires > tonumber(now) then table.insert(live, session) end
  end
  local room = tonumber(max) - 1
  if #live > room then
    if when_full == 'refuse' then return { 'full' } end
    table.sort(live, function(one, two)
      if one.created ~= two.created then return one.created < two.created end
      return one.id < two.id
    end)
    for place = 1, math.min(#live, #live - room) do
      remove(live[place].id)
      table.insert(answer, live[place].id)
      table.insert(answer, live[place].record)
    end
  end
end
add(id, customer, hash, record, expires)
-- The customer as we know them.
redis.call('HSETNX', key, 'customer', data)
return answer
