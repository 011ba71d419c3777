-- Before every script that moves a group in the schedule. A group stands in `due` (score: the moment when it is next looked
-- at, ms) or, once it is due, in the `ready` set of its class (score: its deadline, s), never in both.
-- Its field `sched` is `CLASS DEADLINE [URGENT [HOUR]]`: a letter, two times in seconds (the second may be empty where an hour
-- follows), and the hour of its planned renewal, in hours since 1970. `renewals` has by hour how many groups have it in their
-- `sched`; so that stays true, nothing but `set_sched` writes the field, but where a group gets its first one without an hour.
local base = string.match(KEYS[1], '^sp:{p%d%d}:')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function group_key(id) return base .. 'site:' .. id end

local function unready(id, sched)
  if not sched then return end
  redis.call('ZREM', base .. 'ready:' .. string.sub(sched, 1, 1), id)
  redis.call('ZREM', base .. 'ready:u', id)
end

local function parts_of(sched)
  return string.match(sched, '^(%a) (%d+) ?(%d*) ?(%d*)$')
end

local function hour_of(sched)
  return sched and string.match(sched, '^%a %d+ %d* (%d+)$') or nil
end

local function count_renewal(hour, change)
  if hour and redis.call('HINCRBY', base .. 'renewals', hour, change) <= 0 then
    redis.call('HDEL', base .. 'renewals', hour)
  end
end

local function set_sched(id, sched)
  local old, new = hour_of(redis.call('HGET', group_key(id), 'sched')), hour_of(sched)
  if old ~= new then
    count_renewal(old, -1)
    count_renewal(new, 1)
  end
  redis.call('HSET', group_key(id), 'sched', sched)
end

-- The same place with that hour, or none.
local function with_hour(sched, hour)
  local class, deadline, urgent = parts_of(sched)
  local place = class .. ' ' .. deadline
  if hour then return place .. ' ' .. urgent .. ' ' .. hour end
  return urgent == '' and place or place .. ' ' .. urgent
end

local function make_ready(id, sched)
  local class, deadline, urgent = parts_of(sched)
  if urgent ~= '' and tonumber(urgent) * 1000 <= now then class = 'u' end
  redis.call('ZREM', base .. 'due', id)
  redis.call('ZADD', base .. 'ready:' .. class, deadline, id)
end

local function place(id, sched, moment)
  unready(id, redis.call('HGET', group_key(id), 'sched'))
  set_sched(id, sched)
  if tonumber(moment) <= now then make_ready(id, sched) else redis.call('ZADD', base .. 'due', moment, id) end
end

-- While somebody works on it, it is due when the lease ends: should the holder die, it is found again.
local function work_until(id, moment)
  unready(id, redis.call('HGET', group_key(id), 'sched'))
  redis.call('ZADD', base .. 'due', moment, id)
end

local function is_held(id)
  local ends = redis.call('HGET', group_key(id), 'lease_until')
  return ends and tonumber(ends) > now and tonumber(ends)
end

local function tell(event)
  if event and event ~= '' then
    redis.call('XADD', base .. 'events', 'MAXLEN', '~', 20000, '*', 'e', event)
  end
end

-- Whoever works on it now finds the new revision at the end, and has it looked at again.
local function place_unless_held(id, sched, moment)
  if is_held(id) then set_sched(id, sched) else place(id, sched, moment) end
end

-- A wish says when a group is looked at; its renewal stays as it was planned.
local function wish_for(id, sched, moment)
  place_unless_held(id, with_hour(sched, hour_of(redis.call('HGET', group_key(id), 'sched'))), moment)
end

-- What an operator looks for is found without reading every group.
local function index(id)
  local key = group_key(id)
  local fields = redis.call('HMGET', key, 'failure', 'cut', 'parked', 'spec')
  if fields[4] and (fields[1] or fields[2]) then
    redis.call('ZADD', base .. 'failing', 'NX', now, id)
  else
    redis.call('ZREM', base .. 'failing', id)
  end
  if fields[4] and fields[3] then
    redis.call('ZADD', base .. 'parked', 'NX', now, id)
  else
    redis.call('ZREM', base .. 'parked', id)
  end
end

-- What frontends follow. `feed:CHUNK` are sorted sets of groups (score: the number of their last change), each so small that it is
-- kept packed; `feed` has the chunks that there are. A group stands in it once. `former` has what its scope was before: lines of
-- `NUMBER NAME,... TAG,...`, the number that of the change which ended it.
local CHANGES_IN_A_CHUNK = 100

local function leave_feed(id, number)
  local chunk = math.floor(number / CHANGES_IN_A_CHUNK)
  redis.call('ZREM', base .. 'feed:' .. chunk, id)
  if redis.call('EXISTS', base .. 'feed:' .. chunk) == 0 then redis.call('ZREM', base .. 'feed', chunk) end
end

-- Answers the number of the change.
local function changed(id)
  local before = redis.call('HGET', group_key(id), 'seq')
  if before then leave_feed(id, tonumber(before)) end
  local number = redis.call('HINCRBY', base .. 'feed-state', 'seq', 1)
  local chunk = math.floor(number / CHANGES_IN_A_CHUNK)
  redis.call('ZADD', base .. 'feed:' .. chunk, number, id)
  redis.call('ZADD', base .. 'feed', chunk, chunk)
  redis.call('HSET', group_key(id), 'seq', number)
  return number
end

local function scope_of(spec)
  local site = cjson.decode(spec)
  return table.concat(site.names, ',') .. ' ' .. table.concat(site.tags or {}, ',')
end

-- Its wanted state is another one, or none ('') from now on: those that no longer see it are to hear of that.
local function wanted_changes(id, spec)
  local key = group_key(id)
  local known = redis.call('HMGET', key, 'spec', 'retired', 'former', 'seq')
  local before = known[1] or known[2]
  -- What no frontend was ever given changes for none.
  if not known[4] or known[1] == spec then return end
  local number = changed(id)
  if not before or (spec ~= '' and scope_of(before) == scope_of(spec)) then return end
  local former = { number .. ' ' .. scope_of(before) }
  for line in string.gmatch(known[3] or '', '[^\n]+') do
    if #former < 8 then former[#former + 1] = line end
  end
  redis.call('HSET', key, 'former', table.concat(former, '\n'))
end
