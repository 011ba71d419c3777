-- A place among the orders of an account that are worked on at once, or the same one for longer.
-- KEYS: at-work. ARGV: order, how many there may be, for how long it counts (ms). Answers 1 where there is one.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
local taken = redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
local is_held = ends and tonumber(ends) > now
if not is_held and taken >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], 10 * tonumber(ARGV[3]))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return 1
