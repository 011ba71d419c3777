-- The certificate and the order's step to `stored`, at once.
-- KEYS: site, order, certificate. ARGV: token, the order that is replaced, the new order, the certificate.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local current = redis.call('GET', KEYS[2]) or ''
if current ~= ARGV[2] and current ~= ARGV[3] then return redis.error_reply('CONFLICT the order was changed') end
redis.call('SET', KEYS[3], ARGV[4])
redis.call('SET', KEYS[2], ARGV[3])
return 1
