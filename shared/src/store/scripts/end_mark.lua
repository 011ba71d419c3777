-- Ends the mark of a request that is being worked on. KEYS: idempotency. ARGV: the mark, the answer or '' where none is kept,
-- how long it is kept (s). A mark that expired is somebody else's to set.
local current = redis.call('GET', KEYS[1])
if current and current ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
