-- A name waits no more. Denied, it is not asked about for a time, a longer one each time up to the longest; what it was denied is
-- remembered for as long again.
-- KEYS: waiting, by, denied, denials, counts. ARGV: name, first pause (ms; 0: it is not denied), longest pause (ms), most that
-- are remembered, why.
local name = ARGV[1]
if redis.call('ZREM', KEYS[1], name) == 1 then
  local frontend = redis.call('HGET', KEYS[2], name)
  redis.call('HDEL', KEYS[2], name)
  if frontend and redis.call('HINCRBY', KEYS[5], frontend, -1) <= 0 then redis.call('HDEL', KEYS[5], frontend) end
end
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[3], name)
  redis.call('HDEL', KEYS[4], name)
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = tonumber(string.match(redis.call('HGET', KEYS[4], name) or '', '^%d+ (%d+) ') or 0)
local pause = math.min(ARGV[2] * 2 ^ math.min(count, 30), tonumber(ARGV[3]))
redis.call('HSET', KEYS[4], name, string.format('%d %d %s', now + pause, count + 1, ARGV[5]))
redis.call('ZADD', KEYS[3], now + 2 * pause, name)
while redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[4]) do
  local oldest = redis.call('ZPOPMIN', KEYS[3])
  redis.call('HDEL', KEYS[4], oldest[1])
end
return 1
