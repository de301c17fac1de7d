-- ARGV: customer's id. Answers the ids and records of the customer's sessions, without hashes.
local sessions = {}
local fields = redis.call('HGETALL', customer_key(ARGV[1]))
for place = 1, #fields, 2 do
  if string.sub(fields[place], 1, 8) == 'session:' then
    table.insert(sessions, { string.sub(fields[place], 9), string.sub(fields[place + 1], 65) })
  end
end
return sessions
