-- Takes what is due, each group under a lease of its own. Costs what is taken and what has become due, not what exists.
-- KEYS: due. ARGV: owner, length of the leases (ms), random part, how many may be moved to the ready sets, how many are taken
-- at most in all, then for each class in its order: its letter and how many are taken at most.
-- Answers {ms until more is due or '', letters of the classes of which more is ready, id, token, class, ...}.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[4])
for _, id in ipairs(due) do
  local sched = redis.call('HGET', group_key(id), 'sched')
  local held = is_held(id)
  if not sched then
    redis.call('ZREM', KEYS[1], id)
  elseif held then
    redis.call('ZADD', KEYS[1], held, id)
  else
    make_ready(id, sched)
  end
end
local taken = {'', ''}
local room, left = tonumber(ARGV[5]), ''
for i = 6, #ARGV, 2 do
  local most = math.min(tonumber(ARGV[i + 1]), room)
  local found = most
  if most > 0 then
    local ready = redis.call('ZPOPMIN', base .. 'ready:' .. ARGV[i], most)
    found = #ready / 2
    for j = 1, #ready, 2 do
      local id = ready[j]
      local key = group_key(id)
      local held = is_held(id)
      if held then
        redis.call('ZADD', KEYS[1], held, id)
      elseif redis.call('HEXISTS', key, 'sched') == 1 then
        local token = redis.call('HINCRBY', key, 'lease_count', 1) .. '.' .. ARGV[3]
        redis.call('HSET', key, 'lease', token, 'lease_owner', ARGV[1], 'lease_until', now + ARGV[2])
        redis.call('ZADD', KEYS[1], now + ARGV[2], id)
        taken[#taken + 1] = id
        taken[#taken + 1] = token
        taken[#taken + 1] = ARGV[i]
        room = room - 1
      end
    end
  end
  if found == most and redis.call('EXISTS', base .. 'ready:' .. ARGV[i]) == 1 then left = left .. ARGV[i] end
end
taken[2] = left
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then taken[1] = tostring(math.max(0, math.ceil(tonumber(first[2]) - now))) end
return taken
