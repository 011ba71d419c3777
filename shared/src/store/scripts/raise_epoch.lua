-- Remembers a primary's replication id, and raises the epoch where another was known: once for each change, whoever comes
-- first. KEYS: epoch. ARGV: the primary's field, its id. Answers 1 where the epoch was raised.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known == ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if not known then return 0 end
redis.call('HINCRBY', KEYS[1], 'n', 1)
return 1
