-- KEYS: s:, u:. ARGV: sessions, each with the time of a use. Records those that are later than what is known,
-- of sessions in the set, and none later than this server's clock.
local now, is_known = now_by_clock(), true
for place = 1, #ARGV, 2 do
  local member = ARGV[place]
  if redis.call('ZSCORE', KEYS[1], member) then
    local at = math.min(tonumber(ARGV[place + 1]), now)
    local known = redis.call('HGET', KEYS[2], packed_id_of(member))
    if not known or tonumber(known) < at then
      redis.call('HSET', KEYS[2], packed_id_of(member), string.format('%.0f', at))
      is_known = false
    end
  end
end
if is_known then return 0 end
-- It lives as long as the set, which lives as long as any of these sessions.
local left = redis.call('PTTL', KEYS[1])
if left >= 0 then
  if redis.call('PTTL', KEYS[2]) < 0 then redis.call('PEXPIRE', KEYS[2], left) end
  extend(KEYS[2], left)
end
return 1
