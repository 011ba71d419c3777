-- Replaces those records that are still what they were when they were read. KEYS: records of one partition. ARGV: for each, what
-- it was and what it becomes. Answers how many were replaced.
local replaced = 0
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[2 * i - 1] then
    redis.call('SET', KEYS[i], ARGV[2 * i])
    replaced = replaced + 1
  end
end
return replaced
