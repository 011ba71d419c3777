-- Removes a record that is still what it was when it was read. KEYS: record. ARGV: what it was.
-- One that is gone already is removed again, because only what this call writes can be confirmed.
local current = redis.call('GET', KEYS[1])
if current and current ~= ARGV[1] then return redis.error_reply('CONFLICT the record was changed') end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[1])
return 1
