-- Gives a group back with what came of the work: the orders that are done end, the fields that say how it stands are written, it
-- gets its next place in the schedule, and what happened is told. All at once, or nothing where the lease was lost.
-- KEYS: group, orders that are done, due, ready sets. ARGV: token, id, revision of the group that was worked on, number of orders, place,
-- wait (ms), number of fields, field and value of each ('' deletes), number of certificates that must be served by now, slot and
-- certificate of each, events.
local key = KEYS[1]
-- `N.`: what the lease N was for was settled. By this very call, where nobody has had one since: its answer was lost.
local settled = string.match(ARGV[1], '^%d+') .. '.'
if not field(key, 'lease') and field(key, 'lease_count') == settled then
  set(key, 'lease_count', settled) -- so that a confirmation counts this write
  return commit() or 1
end
if field(key, 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local id = ARGV[2]
-- A failover may have lost what this worker has written, and not its lease: then its orders are not done.
local first = 8 + 2 * tonumber(ARGV[7])
for i = first + 1, first + 2 * tonumber(ARGV[first]), 2 do
  if field(key, 'cert:' .. ARGV[i]) ~= ARGV[i + 1] and field(key, 'next:' .. ARGV[i]) ~= ARGV[i + 1] then
    return redis.error_reply('CONFLICT what was published is not there')
  end
end
for i = 2, 1 + tonumber(ARGV[4]) do drop(KEYS[i]) end
-- What was wished for in the meantime is not overwritten: it is looked at again at once.
local same = (field(key, 'rev') or '0') == ARGV[3]
local announces = false
for i = 8, first - 1, 2 do
  local name, new = ARGV[i], ARGV[i + 1]
  announces = announces or (string.sub(name, 1, 5) == 'hsts_')
  if new ~= '' then
    set(key, name, new)
  elseif same or (name ~= 'retry' and name ~= 'force') then
    unset(key, name)
  end
end
give_up_lease(key)
set(key, 'lease_count', settled)
if same then
  place(id, ARGV[5], ARGV[6])
else
  -- What is served may have changed, and with it its renewal. What is no longer wanted has none.
  place(id, with_hour(field(key, 'sched') or ARGV[5], field(key, 'spec') and hour_of(ARGV[5])), 0)
end
-- Frontends announce something else from now on.
if announces and field(key, 'seq') then changed(id) end
index(id)
for i = first + 1 + 2 * tonumber(ARGV[first]), #ARGV do tell(ARGV[i]) end
return commit() or 1
