-- KEYS: copies. ARGV: ms and number of the last line that is about to be taken out. Never goes back: two copies may say so at once.
local ms, number = string.match(redis.call('HGET', KEYS[1], 'removed') or '0-0', '^(%d+)-(%d+)$')
ms, number = tonumber(ms or 0), tonumber(number or 0)
if ms > tonumber(ARGV[1]) or (ms == tonumber(ARGV[1]) and number >= tonumber(ARGV[2])) then return 0 end
redis.call('HSET', KEYS[1], 'removed', ARGV[1] .. '-' .. ARGV[2])
return 1
