-- An operator asks for a group to be looked at now. KEYS: group. ARGV: id, place, then fields and values to set.
-- Answers 0 where there is no such group.
if redis.call('HEXISTS', KEYS[1], 'spec') == 0 then return 0 end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HINCRBY', KEYS[1], 'rev', 1)
wish_for(ARGV[1], ARGV[2], now)
return 1
