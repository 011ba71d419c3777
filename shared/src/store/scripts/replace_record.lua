-- Replaces a record that is still what it was when it was read. KEYS: record. ARGV: what it was or '', what it becomes.
-- One that was replaced already is written again, because only what this call writes can be confirmed.
local current = redis.call('GET', KEYS[1]) or ''
if current ~= ARGV[1] and current ~= ARGV[2] then return redis.error_reply('CONFLICT the record was changed') end
redis.call('SET', KEYS[1], ARGV[2])
return 1
