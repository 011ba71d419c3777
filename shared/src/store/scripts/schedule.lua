-- Before every script that moves a group in the schedule. A group stands in `due` (score: the moment when it is next looked
-- at, ms) or, once it is due, in the `ready` set of its class (score: its deadline, s), never in both.
-- Its field `sched` is `CLASS DEADLINE [URGENT]`: a letter, and two times in seconds.
local base = string.match(KEYS[1], '^sp:{p%d%d}:')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function group_key(id) return base .. 'site:' .. id end

local function unready(id, sched)
  if not sched then return end
  redis.call('ZREM', base .. 'ready:' .. string.sub(sched, 1, 1), id)
  redis.call('ZREM', base .. 'ready:u', id)
end

local function make_ready(id, sched)
  local class, deadline, urgent = string.match(sched, '^(%a) (%d+) ?(%d*)$')
  if urgent ~= '' and tonumber(urgent) * 1000 <= now then class = 'u' end
  redis.call('ZREM', base .. 'due', id)
  redis.call('ZADD', base .. 'ready:' .. class, deadline, id)
end

local function place(id, sched, moment)
  local key = group_key(id)
  unready(id, redis.call('HGET', key, 'sched'))
  redis.call('HSET', key, 'sched', sched)
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
