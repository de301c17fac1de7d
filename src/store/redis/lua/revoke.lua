-- ARGV: what ends. Answers how many sessions there were.
--   'session', id
--   'owned', id, customer's id: answers -1 if the session is another customer's
--   'customer', customer's id, the id to keep (optional)
--   'all', the moment before which they were created (optional)
local kind, first, second = unpack(ARGV)
if kind == 'owned' then
  local owned_by = owner(first)
  if owned_by and owned_by ~= second then return -1 end
end
if kind == 'session' or kind == 'owned' then return remove(first) and 1 or 0 end

local ended = 0
local function end_session(id)
  if remove(id) then ended = ended + 1 end
end
if kind == 'customer' then
  for _, session in ipairs(sessions_of(first)) do
    if session.id ~= second then end_session(session.id) end
  end
elseif kind == 'all' then
  for _, id in ipairs(redis.call('ZRANGE', EXPIRY, 0, -1)) do
    if not first then
      end_session(id)
    else
      local record = record_of(id)
      if record and times(record) < tonumber(first) then end_session(id) end
    end
  end
end
return ended
