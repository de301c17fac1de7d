-- ARGV: the hashes of a token. Answers which of them it was, id, record and customer.
for place = 1, #ARGV do
  local hash = ARGV[place]
  local leads_to = redis.call('GET', token_key(hash))
  if leads_to then
    local cut = string.find(leads_to, '\0', 1, true)
    if not cut then return redis.error_reply('CORRUPT a key `token:` leads nowhere') end
    local id = string.sub(leads_to, 1, cut - 1)
    local key = customer_key(string.sub(leads_to, cut + 1))
    local found = redis.call('HMGET', key, 'session:' .. id, 'customer')
    if found[1] and string.sub(found[1], 1, 64) == hash then
      return { place, id, string.sub(found[1], 65), found[2] or '' }
    end
  end
end
return false
