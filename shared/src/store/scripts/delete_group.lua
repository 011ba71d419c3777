-- Deletes a retired group with everything of it, after its grace time. KEYS: group, its orders and what they brought. ARGV: token, id.
-- Answers 0 where it is wanted again.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
if redis.call('HEXISTS', KEYS[1], 'spec') == 1 then return 0 end
local id = ARGV[2]
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local kind = string.match(fields[i], '^(%a+):')
  if kind == 'cert' or kind == 'prev' or kind == 'kept' or kind == 'next' then
    redis.call('UNLINK', base .. 'cert:' .. id .. ':' .. fields[i + 1])
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
-- The first group's record also says which groups the site has.
local site = redis.call('HMGET', KEYS[1], 'groups', 'wrev')
redis.call('DEL', KEYS[1])
if site[1] then redis.call('HSET', KEYS[1], 'groups', site[1], 'wrev', site[2] or '0') end
return 1
