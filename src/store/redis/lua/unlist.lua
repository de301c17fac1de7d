-- KEYS: e:, the list of a minute. ARGV: the minute, or 'g'; an entry (optional). Removes the entry from the
-- list, and the list if it is empty.
if ARGV[2] then redis.call('LREM', KEYS[2], -1, ARGV[2]) end
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 1
