-- KEYS: c:, s:. ARGV: a session. Answers the customer, if it is one of theirs.
return redis.call('ZSCORE', KEYS[2], ARGV[1]) and redis.call('GET', KEYS[1])
