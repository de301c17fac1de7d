-- ARGV: what ends.
--   'session', id
--   'owned', id, customer's id
--   'customer', customer's id, the id to keep (optional)
--   'all', the moment before which they were created (optional)
-- Answers how many sessions there were, -1 if the session is another customer's; and of a single
-- session the id of the one that ended, and the customer's id if another id led to it.
local kind, first, second = unpack(ARGV)
if kind == 'session' or kind == 'owned' then
  local id, customer = current(first)
  customer = owner(id) or customer
  if kind == 'owned' and customer and customer ~= second then return { -1, '', '' } end
  local ended = remove(id)
  local by_another_id = id ~= first and customer
  return { ended and 1 or 0, ended and id or '', by_another_id or '' }
end

local ended = 0
local function end_session(id)
  if remove(id) then ended = ended + 1 end
end
if kind == 'customer' then
  local keep = second and current(second)
  for _, session in ipairs(sessions_of(first)) do
    if session.id ~= keep then end_session(session.id) end
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
return { ended, '', '' }
