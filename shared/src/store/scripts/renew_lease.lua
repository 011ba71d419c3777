-- KEYS: site. ARGV: token, length (ms).
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'lease_until', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[2])
return 1
