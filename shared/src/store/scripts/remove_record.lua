-- Removes a record that is still what it was when it was read. KEYS: record. ARGV: what it was.
local current = redis.call('GET', KEYS[1])
if not current then return 1 end
if current ~= ARGV[1] then return redis.error_reply('CONFLICT the record was changed') end
redis.call('DEL', KEYS[1])
return 1
