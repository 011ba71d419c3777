-- One step of an order. KEYS: site, order. ARGV: token, the record that is replaced or '', the new record.
-- A step that was written already is written again, because only what this call writes can be confirmed.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local current = redis.call('GET', KEYS[2]) or ''
if current ~= ARGV[2] and current ~= ARGV[3] then return redis.error_reply('CONFLICT the order was changed') end
redis.call('SET', KEYS[2], ARGV[3])
return 1
