-- Replaces a field that is still what it was when it was read. KEYS: hash. ARGV: field, what it was, what it becomes. Answers 1
-- where it was replaced.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
