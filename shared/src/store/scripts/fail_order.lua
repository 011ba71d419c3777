-- Ends an order that brings no certificate. What is served is not touched.
-- KEYS: group, order. ARGV: token, then fields and values that say why.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'lease', ARGV[1]) -- so that a confirmation counts a repeated call too
redis.call('DEL', KEYS[2])
return 1
