-- KEYS: e:. ARGV: a minute or 'g', an entry. Removes the entry from the list of that minute.
local list = KEYS[1] .. ARGV[1]
redis.call('LREM', list, -1, ARGV[2])
if redis.call('EXISTS', list) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 1
