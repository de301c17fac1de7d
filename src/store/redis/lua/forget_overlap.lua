-- KEYS: s:, d:. ARGV: a session that goes on as a child, and its family. Removes what it was.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], about('C', ARGV[2]) .. ARGV[1])
return 1
