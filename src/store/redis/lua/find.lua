-- KEYS: the prefix. ARGV: the hashes of a token. Answers which of them it was, the record, the customer, the
-- last use, and the end of its overlap if it was just replaced.
-- For a single server, where the keys need not be named.
for place = 1, #ARGV do
  local record = redis.call('GET', KEYS[1] .. 't:' .. ARGV[place])
  if record then
    -- The shard, and two texts with their length before them.
    local shard = string.sub(record, 2, 2)
    local is_whole, customer, member = pcall(struct.unpack, '>Hc0Hc0', record, 3)
    if not is_whole then return redis.error_reply('CORRUPT its record is corrupt') end
    local key = KEYS[1] .. 'c:{' .. customer .. '}'
    local found = redis.call('GET', key)
    local score = found and redis.call('ZSCORE', KEYS[1] .. 's:{' .. customer .. '}', member)
    if score and epoch_of(found) == redis.call('GET', KEYS[1] .. 'a:{' .. shard .. '}') then
      local used = redis.call('HGET', KEYS[1] .. 'u:{' .. customer .. '}', packed_id_of(member))
      return { place, record, found, used, overlap_end(score) or false }
    end
  end
end
return false
