-- KEYS: c:, s:, d:. ARGV: the parent, its family, the child and its score; epoch; life in ms; the present time;
-- how many children a parent may have.
-- Answers 'done' and the customer, 'there' and the customer if the child was live already, or why not: 'gone' if
-- the parent is not live, or 'full'.
local parent, family, child, score, epoch, life, now, max = unpack(ARGV)
local customer = redis.call('GET', KEYS[1])
if not customer or epoch_of(customer) ~= epoch then return { 'gone' } end
if not is_current(KEYS[2], parent) then return { 'gone' } end
-- The driver repeats a call whose answer was lost.
if redis.call('ZSCORE', KEYS[2], child) then return { 'there', string.sub(customer, 10) } end
local text, live = about('C', family), 0
for _, entry in ipairs(beginning(KEYS[3], text)) do
  local other = string.sub(entry, #text + 1)
  if not redis.call('ZSCORE', KEYS[2], other) then
    redis.call('ZREM', KEYS[3], entry)
  elseif expires_of(other) > tonumber(now) and string.sub(other, 1, 1) == 'c' then
    -- No overlapping one. By a clock that may be ahead, so the others stay.
    live = live + 1
  end
end
if live >= tonumber(max) then return { 'full' } end
redis.call('ZADD', KEYS[2], score, child)
redis.call('ZADD', KEYS[3], 0, child_entry(child), 0, about('P', parent) .. family)
if redis.call('PTTL', KEYS[3]) < 0 then redis.call('PEXPIRE', KEYS[3], life) end
for _, key in ipairs(KEYS) do extend(key, life) end
return { 'done', string.sub(customer, 10) }
