-- KEYS: e:. ARGV: a minute or 'g', an entry, life in ms. Adds the entry to the list of that minute.
local list = KEYS[1] .. ARGV[1]
if ARGV[1] ~= 'g' then
  redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1])
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
  extend(KEYS[1], ARGV[3])
end
redis.call('RPUSH', list, ARGV[2])
if redis.call('PTTL', list) < 0 then redis.call('PEXPIRE', list, ARGV[3]) end
extend(list, ARGV[3])
return 1
