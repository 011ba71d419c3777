-- Names that were seen and that no site has: those that are new wait for an issuer. What was denied a while ago is not asked
-- about again, and nobody fills the memory.
-- KEYS: waiting, by, denied, denials, counts. ARGV: frontend, most of one frontend, most of all, names. Answers a word for each.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[3], name)
  redis.call('HDEL', KEYS[4], name)
end
local answers = {}
for i = 4, #ARGV do
  local name = ARGV[i]
  local denial = redis.call('HGET', KEYS[4], name)
  if redis.call('ZSCORE', KEYS[1], name) then
    answers[#answers + 1] = 'waiting'
  elseif denial and tonumber(string.match(denial, '^(%d+) ')) > now then
    answers[#answers + 1] = 'denied'
  elseif redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3])
      or tonumber(redis.call('HGET', KEYS[5], ARGV[1]) or 0) >= tonumber(ARGV[2]) then
    answers[#answers + 1] = 'full'
  else
    redis.call('ZADD', KEYS[1], now, name)
    redis.call('HSET', KEYS[2], name, ARGV[1])
    redis.call('HINCRBY', KEYS[5], ARGV[1], 1)
    answers[#answers + 1] = 'accepted'
  end
end
return answers
