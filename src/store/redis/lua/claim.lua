-- KEYS: any. ARGV: a value, and for how long. Sets it if there is none, and answers the one there was.
local there = redis.call('GET', KEYS[1])
if not there then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return there
