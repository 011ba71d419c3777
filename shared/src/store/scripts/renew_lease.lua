-- KEYS: group. ARGV: token, length (ms), id.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
redis.call('HSET', KEYS[1], 'lease_until', now + ARGV[2])
redis.call('ZADD', base .. 'due', 'XX', now + ARGV[2], ARGV[3])
return 1
