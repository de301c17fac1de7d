-- KEYS: e:, the list of a minute. ARGV: the minute, or 'g'; an entry; life in ms. Adds the entry to the list.
if ARGV[1] ~= 'g' then
  redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1])
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
  extend(KEYS[1], ARGV[3])
end
redis.call('RPUSH', KEYS[2], ARGV[2])
if redis.call('PTTL', KEYS[2]) < 0 then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
extend(KEYS[2], ARGV[3])
return 1
