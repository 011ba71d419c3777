-- The right to give an account another key, or to keep it. KEYS: rollover. ARGV: token, length (ms). Answers 1 where it is ours.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
