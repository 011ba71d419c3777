-- KEYS: leader. ARGV: token, length (ms).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED another node notifies') end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
