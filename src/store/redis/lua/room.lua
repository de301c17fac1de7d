-- Below this score is what does not count for a limit, such as a link.
local LOWEST_SESSION = '-4503599627370496'

-- Makes room for a session under a limit: of the customer's sessions that count, the oldest end, until at
-- most `max` - 1 are left, or the session is refused. A session counts if it expires after `now` and was used
-- after `since` (empty: whenever), and is not `except`, which the new one replaces. Answers 'done', 'full', or
-- 'more' if the call must be repeated. The sessions that were ended are added to `answer`, oldest first, each
-- with the time of its creation, and behind each its children.
local function make_room(sessions, children, uses, channel, now, max, when_full, since, except, answer)
  local room = max ~= '' and tonumber(max) - 1
  if not room then return 'done' end
  if when_full == 'refuse' and room < 0 then return 'full' end
  local count = redis.call('ZCOUNT', sessions, LOWEST_SESSION, '+inf')
  if count <= room then return 'done' end

  -- Ends a session. The score is the time of its creation.
  local function finish(member, score)
    if member == except or remove(sessions, uses, member) == 0 then return end
    if expires_of(member) <= now then return forget_in_trees(children, member) end
    redis.call('PUBLISH', channel, 'session:' .. id_of(member))
    table.insert(answer, member)
    table.insert(answer, string.format('%.0f', tonumber(score)))
    end_tree(children, sessions, uses, channel, member, function(child, created)
      table.insert(answer, child)
      table.insert(answer, created)
    end)
  end

  -- Which sessions of a page count. A page holds members and their scores in turn.
  local function counting(page)
    local ids, used, counts = {}, {}, {}
    if since ~= '' and #page > 0 then
      for place = 1, #page, 2 do table.insert(ids, packed_id_of(page[place])) end
      used = redis.call('HMGET', uses, unpack(ids))
    end
    for place = 1, #page, 2 do
      local created = tonumber(page[place + 1])
      local last_use = math.max(created, tonumber(used[(place + 1) / 2] or created))
      counts[place] = page[place] ~= except
        and expires_of(page[place]) > now
        and (since == '' or last_use > tonumber(since))
    end
    return counts
  end

  -- The newest ones that count stay. So many at most are looked at, and if that is not enough, those that do
  -- not count are removed, so that the server does not stand still.
  local live, newer, others = 0, 0, {}
  local at_most = math.max(room, 0) + 1000
  local wanted = when_full == 'refuse' and room + 1 or room
  while newer < count and newer < at_most and live < wanted do
    local page = redis.call('ZREVRANGE', sessions, newer, math.min(newer + 100, count) - 1, 'WITHSCORES')
    local counts = counting(page)
    for place = 1, #page, 2 do
      if live < wanted then
        newer = newer + 1
        if counts[place] then
          live = live + 1
        else
          table.insert(others, { page[place], page[place + 1] })
        end
      end
    end
  end
  if when_full == 'refuse' and live > room then return 'full' end
  if live < wanted and newer < count then
    for _, other in ipairs(others) do finish(unpack(other)) end
    return 'more'
  end
  local older = when_full == 'refuse' and 0 or count - newer
  if older == 0 then return 'done' end
  local first = redis.call('ZCARD', sessions) - count
  local page = redis.call('ZRANGE', sessions, first, first + math.min(older, 1000) - 1, 'WITHSCORES')
  local counts = counting(page)
  for place = 1, #page, 2 do
    if counts[place] or older > 1000 then finish(page[place], page[place + 1]) end
  end
  return older > 1000 and 'more' or 'done'
end
