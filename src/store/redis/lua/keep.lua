-- KEYS: i:. ARGV: life in ms. Has the id lead to its family for so long. Answers 0 if it is gone.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
extend(KEYS[1], ARGV[1])
return 1
