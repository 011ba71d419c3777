-- Remembers a primary's replication id, and raises the epoch where another was known: once for each change, whoever comes
-- first. KEYS: epoch. ARGV: the primary's field, its id. Answers 1 where the epoch was raised.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known == ARGV[2] then return 0 end
if not known then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  return 0
end
-- A number that can't be read is one that nobody has seen: counted from the clock, it is another than all before.
local number = tonumber(redis.call('HGET', KEYS[1], 'n') or '0') or tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], 'n', string.format('%.0f', number + 1))
return 1
