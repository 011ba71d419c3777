-- Deletes a retired group with everything of it, after its grace time. KEYS: group, its orders and what they brought. ARGV: token, id.
-- Answers 0 where it is wanted again.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
if redis.call('HEXISTS', KEYS[1], 'spec') == 1 then return 0 end
local id = ARGV[2]
local fields = redis.call('HGETALL', KEYS[1])
local keeps = false
for i = 1, #fields, 2 do
  local kind = string.match(fields[i], '^(%a+):')
  if kind == 'cert' or kind == 'prev' or kind == 'kept' or kind == 'next' then
    redis.call('UNLINK', base .. 'cert:' .. id .. ':' .. fields[i + 1])
    keeps = keeps or kind == 'kept'
  end
end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
local sched = redis.call('HGET', KEYS[1], 'sched')
unready(id, sched)
count_renewal(hour_of(sched), -1)
redis.call('ZREM', base .. 'due', id)
redis.call('ZREM', base .. 'sites', id)
redis.call('ZREM', base .. 'failing', id)
redis.call('ZREM', base .. 'parked', id)
-- The first group's record also says which groups the site has; and frontends that were away for a time are still to hear of this.
local stays = {'groups', 'wrev', 'seq', 'former', 'unkept'}
local values = redis.call('HMGET', KEYS[1], unpack(stays))
if keeps then values[5] = values[3] end
redis.call('DEL', KEYS[1])
for i, field in ipairs(stays) do
  if values[i] then redis.call('HSET', KEYS[1], field, values[i]) end
end
if values[3] then redis.call('ZADD', base .. 'gone', now, id) end
-- For 90 days.
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', base .. 'gone', '-inf', now - 7776000000, 'LIMIT', 0, 10)) do
  local number = tonumber(redis.call('HGET', group_key(gone), 'seq') or 0)
  leave_feed(gone, number)
  redis.call('HDEL', group_key(gone), 'seq', 'former', 'unkept')
  local floor = tonumber(redis.call('HGET', base .. 'feed-state', 'floor') or 0)
  if number > floor then redis.call('HSET', base .. 'feed-state', 'floor', number) end
  redis.call('ZREM', base .. 'gone', gone)
end
return 1
