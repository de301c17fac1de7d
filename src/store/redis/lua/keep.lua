-- KEYS: i:. ARGV: life in ms, or -1 for a key that purging alone removes. Has the id lead to its family for
-- so long. Answers 0 if it is gone.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if tonumber(ARGV[1]) < 0 then
  redis.call('PERSIST', KEYS[1])
else
  extend(KEYS[1], ARGV[1])
end
return 1
