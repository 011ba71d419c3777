-- Gives a group back with what came of the work: the orders that are done end, the fields that say how it stands are written, it
-- gets its next place in the schedule, and what happened is told. All at once, or nothing where the lease was lost.
-- KEYS: group, orders that are done. ARGV: token, id, revision of the group that was worked on, place, moment (ms),
-- number of fields, field and value of each ('' deletes), number of certificates that must be served by now, slot and certificate
-- of each, events.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local id = ARGV[2]
-- A failover may have lost what this worker has written, and not its lease: then its orders are not done.
local first = 7 + 2 * tonumber(ARGV[6])
for i = first + 1, first + 2 * tonumber(ARGV[first]), 2 do
  local served = redis.call('HMGET', KEYS[1], 'cert:' .. ARGV[i], 'next:' .. ARGV[i])
  if served[1] ~= ARGV[i + 1] and served[2] ~= ARGV[i + 1] then
    return redis.error_reply('CONFLICT what was published is not there')
  end
end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
local gone = {}
-- What was wished for in the meantime is not overwritten: it is looked at again at once.
local same = (redis.call('HGET', KEYS[1], 'rev') or '0') == ARGV[3]
local at = 7
local announces = false
for _ = 1, tonumber(ARGV[6]) do
  local field, value = ARGV[at], ARGV[at + 1]
  at = at + 2
  announces = announces or (string.sub(field, 1, 5) == 'hsts_')
  if value ~= '' then
    redis.call('HSET', KEYS[1], field, value)
    gone[field] = nil
  elseif same or (field ~= 'retry' and field ~= 'force') then
    gone[field] = true
  end
end
local fields = {'lease', 'lease_owner', 'lease_until'}
for field in pairs(gone) do fields[#fields + 1] = field end
redis.call('HDEL', KEYS[1], unpack(fields))
if same then
  place(id, ARGV[4], ARGV[5])
else
  local wished = redis.call('HGET', KEYS[1], 'sched') or ARGV[4]
  -- What is served may have changed, and with it its renewal. What is no longer wanted has none.
  local hour = redis.call('HEXISTS', KEYS[1], 'spec') == 1 and hour_of(ARGV[4])
  place(id, with_hour(wished, hour), now)
end
-- Frontends announce something else from now on.
if announces and redis.call('HEXISTS', KEYS[1], 'seq') == 1 then changed(id) end
index(id)
for i = first + 1 + 2 * tonumber(ARGV[first]), #ARGV do tell(ARGV[i]) end
return 1
