-- One step of an order. KEYS: site, order. ARGV: token, the record that is replaced or '', the new record.
-- Repeating a write that was made already changes nothing.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local current = redis.call('GET', KEYS[2]) or ''
if current == ARGV[3] then return 1 end
if current ~= ARGV[2] then return redis.error_reply('CONFLICT the order was changed') end
redis.call('SET', KEYS[2], ARGV[3])
return 1
