-- An order whose challenges the CA is about to be told of. KEYS: looking. ARGV: order ('' for none), for how long it counts (ms).
-- Answers how many there are.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 10 * tonumber(ARGV[2]))
end
local count = redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
-- Last: it may take the key away.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return count
