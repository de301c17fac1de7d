-- ARGV: a moment, how many at most. Answers how many were due, and how many of these were there:
-- what is left of a customer who was deleted by hand goes uncounted.
local due = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local purged = 0
for _, id in ipairs(due) do
  if remove(id) then purged = purged + 1 end
end
return { #due, purged }
