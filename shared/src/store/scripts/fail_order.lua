-- Ends an order and remembers why. What is served is not touched.
-- KEYS: site, order. ARGV: token, the failure or '' where there is none to remember.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
redis.call('DEL', KEYS[2])
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'failure', ARGV[2]) end
return 1
