-- The certificate and the order's step to `stored`, at once.
-- KEYS: site, order, certificate, the leaf that it is packed against. ARGV: token, the order that is replaced, the new order, the
-- certificate, that leaf. Answers 0 where another leaf is there to be packed against.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local current = redis.call('GET', KEYS[2]) or ''
if current ~= ARGV[2] and current ~= ARGV[3] then return redis.error_reply('CONFLICT the order was changed') end
local template = redis.call('GET', KEYS[4])
if template and template ~= ARGV[5] then return 0 end
if not template then redis.call('SET', KEYS[4], ARGV[5]) end
redis.call('SET', KEYS[3], ARGV[4])
redis.call('SET', KEYS[2], ARGV[3])
return 1
