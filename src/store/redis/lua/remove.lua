-- KEYS: c:, s:, d:, u:. ARGV: a session, its family. Removes it without a word to other nodes, as it has expired.
-- Answers 1 if it was there.
local was_there = remove(KEYS[2], KEYS[4], ARGV[1])
forget_in_trees(KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[3], about('C', ARGV[2]) .. ARGV[1])
if was_there == 1 then forget(KEYS[1], KEYS[2]) end
return was_there
