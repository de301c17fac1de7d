-- ARGV: customer's id. Answers the ids and records of the customer's sessions, without hashes.
local sessions = {}
for _, session in ipairs(sessions_of(ARGV[1])) do
  table.insert(sessions, { session.id, session.record })
end
return sessions
