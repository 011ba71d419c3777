-- The wanted state of a site, or another field of it. KEYS: site. ARGV: token, field, value.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
