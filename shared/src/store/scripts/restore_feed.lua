-- Makes the list of a feed's chunks that of those that there are. KEYS: feed, its state. ARGV: up to which they were looked for, those that
-- there are. Answers 0 where there may be later ones.
local last = tonumber(redis.call('HGET', KEYS[2], 'seq') or '0') or 0
if math.floor(last / 100) > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i]) end
return 1
