-- ARGV: customer's id. Answers how many sessions there were.
local key = customer_key(ARGV[1])
local revoked = 0
for _, field in ipairs(redis.call('HKEYS', key)) do
  if string.sub(field, 1, 8) == 'session:' and remove(string.sub(field, 9)) then
    revoked = revoked + 1
  end
end
return revoked
