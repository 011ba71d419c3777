-- Adds a member to a sorted set of names. KEYS: set. ARGV: member.
-- One that is there already is written again, because only what this call writes can be confirmed; it is there all the time.
redis.call('ZADD', KEYS[1], 1, ARGV[1])
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return 1
