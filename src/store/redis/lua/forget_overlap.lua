-- KEYS: s:, d:. ARGV: an overlapping session as it was before, and its family. Removes it.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], about('C', ARGV[2]) .. ARGV[1])
return 1
