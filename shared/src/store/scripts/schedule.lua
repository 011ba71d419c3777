-- Before every script that moves a group in the schedule, behind `all_or_nothing.lua`. A group stands in `due` (score: the moment when
-- it is next looked at, ms, by the store's clock) or, once it is due, in the `ready` set of its class (score: its deadline, s), never
-- in both. Whatever is said of a moment says how long it is until then, ms: the clocks of the programs are their own.
-- Its field `sched` is `CLASS DEADLINE [URGENT [HOUR]]`: a letter, two times in seconds (the second may be empty where an hour
-- follows), and the hour of its planned renewal, in hours since 1970. `renewals` has by hour how many groups have it in their
-- `sched`; so that stays true, nothing but `set_sched` writes the field, but where a group gets its first one without an hour.
local base = string.match(KEYS[1], '^sp:{p%d%d}:')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = base .. 'due'
local CLASSES = {'u', 'o', 'n', 'r', 't', 'c'}
-- Nobody leases a group for longer: what says so is damaged.
local LONGEST_LEASE = 86400000

local function text(number) return string.format('%.0f', number) end
local function group_key(id) return base .. 'site:' .. id end
local function ready_key(class) return base .. 'ready:' .. class end

-- Nothing where it can't be read.
local function parts_of(sched)
  local class, deadline, urgent, hour = string.match(sched or '', '^([uonrtc]) (%d+) ?(%d*) ?(%d*)$')
  if class and #deadline <= 12 and #urgent <= 12 and #hour <= 9 then return class, deadline, urgent, hour end
end

-- A place that can't be read is one for now: whoever looks at the group gives it another.
local function legible(sched)
  if parts_of(sched) then return sched end
  return 'r ' .. text(math.floor(now / 1000))
end

local function unready(id)
  for _, class in ipairs(CLASSES) do take(ready_key(class), id) end
end

local function hour_of(sched)
  local class, _, _, hour = parts_of(sched)
  return class and hour ~= '' and hour or nil
end

local function count_renewal(hour, change)
  if not hour then return end
  local key = base .. 'renewals'
  local count = (tonumber(field(key, hour) or '0') or 0) + change
  if count <= 0 then unset(key, hour) else set(key, hour, text(count)) end
end

local function set_sched(id, sched)
  local old, new = hour_of(field(group_key(id), 'sched')), hour_of(sched)
  if old ~= new then
    count_renewal(old, -1)
    count_renewal(new, 1)
  end
  set(group_key(id), 'sched', sched)
end

-- The same place with that hour, or none.
local function with_hour(sched, hour)
  local class, deadline, urgent = parts_of(legible(sched))
  local place = class .. ' ' .. deadline
  if hour then return place .. ' ' .. urgent .. ' ' .. hour end
  return urgent == '' and place or place .. ' ' .. urgent
end

local function make_ready(id, sched)
  local class, deadline, urgent = parts_of(legible(sched))
  if urgent ~= '' and tonumber(urgent) * 1000 <= now then class = 'u' end
  unready(id)
  take(due, id)
  add(ready_key(class), id, deadline)
end

local function make_due(id, moment)
  unready(id)
  add(due, id, text(moment))
end

-- `wait`: ms from now on.
local function place(id, sched, wait)
  set_sched(id, sched)
  if tonumber(wait) <= 0 then make_ready(id, sched) else make_due(id, now + wait) end
end

local function number_of(key, name) return tonumber(field(key, name) or '0') or 0 end

local function is_held(id)
  local ends = number_of(group_key(id), 'lease_until')
  return ends > now and ends < now + LONGEST_LEASE and ends
end

local function tell(event)
  if event and event ~= '' then append(base .. 'events', event) end
end

-- Whoever works on it now finds the new revision at the end, and has it looked at again. While somebody does, it is due when the
-- lease ends: should the holder die, it is found again.
local function place_unless_held(id, sched, wait)
  local ends = is_held(id)
  if ends then
    set_sched(id, sched)
    make_due(id, ends)
  else
    place(id, sched, wait)
  end
end

-- A wish says when a group is looked at; its renewal stays as it was planned.
local function wish_for(id, sched, wait)
  place_unless_held(id, with_hour(sched, hour_of(field(group_key(id), 'sched'))), wait)
end

-- The right to work on a group, for so many ms. Answers its token.
local function lease(id, owner, length, random)
  local key = group_key(id)
  -- A counter alone can be rolled back by a failover; the random part makes the token one of its kind.
  local count = text(number_of(key, 'lease_count') + 1)
  local token = count .. '.' .. random
  set(key, 'lease_count', count)
  set(key, 'lease', token)
  set(key, 'lease_owner', owner)
  set(key, 'lease_until', text(now + length))
  make_due(id, now + length)
  return token
end

local function give_up_lease(key)
  for _, name in ipairs({'lease', 'lease_owner', 'lease_until'}) do unset(key, name) end
end

local function index_as(name, id, belongs)
  local key = base .. name
  if not belongs then take(key, id) elseif not score(key, id) then add(key, id, text(now)) end
end

-- Who waits for a moment has not failed. It stands in `waiting`, by when it is next looked at, ms.
local function is_wait(failure) return failure and string.find(failure, '"waits":true', 1, true) and true or false end

local function index_wait(id, waits)
  local key = base .. 'waiting'
  if waits then add(key, id, text(score(due, id) or now)) else take(key, id) end
end

-- What an operator looks for is found without reading every group. Called once its place is known.
local function index(id)
  local key = group_key(id)
  local is_wanted, failure = field(key, 'spec'), field(key, 'failure')
  local waits = is_wait(failure)
  index_wait(id, is_wanted and waits)
  if waits then failure = nil end
  index_as('failing', id, is_wanted and (failure or field(key, 'cut')))
  index_as('parked', id, is_wanted and field(key, 'parked'))
end

-- What frontends follow. `feed:CHUNK` are sorted sets of groups (score: the number of their last change), each so small that it is
-- kept packed; `feed` has the chunks that there are. A group stands in it once. `former` has what its scope was before: lines of
-- `NUMBER NAME,... TAG,...`, the number that of the change which ended it.
local CHANGES_IN_A_CHUNK = 100
local feed, feed_state = base .. 'feed', base .. 'feed-state'

-- A list of the feed that is of another kind holds no group: what it said is said again once it is found (`store/feed_lists.rs`).
local function is_list(key)
  touch(key)
  return type(redis.pcall('ZCARD', key)) == 'number'
end

local function leave_feed(id, number)
  local chunk = text(math.floor(number / CHANGES_IN_A_CHUNK))
  local key = feed .. ':' .. chunk
  if not is_list(key) then return end
  take(key, id)
  if card(key) == 0 and is_list(feed) then take(feed, chunk) end
end

-- Answers the number of the change.
local function changed(id)
  local before = tonumber(field(group_key(id), 'seq') or '')
  local number = number_of(feed_state, 'seq') + 1
  while not is_list(feed .. ':' .. text(math.floor(number / CHANGES_IN_A_CHUNK))) do
    number = (math.floor(number / CHANGES_IN_A_CHUNK) + 1) * CHANGES_IN_A_CHUNK
  end
  local chunk = text(math.floor(number / CHANGES_IN_A_CHUNK))
  if before then leave_feed(id, before) end
  set(feed_state, 'seq', text(number))
  add(feed .. ':' .. chunk, id, text(number))
  if is_list(feed) then add(feed, chunk, chunk) end
  set(group_key(id), 'seq', text(number))
  return text(number)
end

-- Nothing where it can't be read.
local function scope_of(spec)
  local is_read, site = pcall(cjson.decode, spec)
  if not is_read or type(site) ~= 'table' or type(site.names) ~= 'table' then return nil end
  local tags = type(site.tags) == 'table' and site.tags or {}
  return table.concat(site.names, ',') .. ' ' .. table.concat(tags, ',')
end

-- Its wanted state is another one, or none ('') from now on: those that no longer see it are to hear of that.
local function wanted_changes(id, spec)
  local key = group_key(id)
  local wanted = field(key, 'spec')
  -- What no frontend was ever given changes for none.
  if not field(key, 'seq') or wanted == spec then return end
  local before = wanted or field(key, 'retired')
  local known = field(key, 'former')
  local number = changed(id)
  local scope = before and scope_of(before)
  if not scope or (spec ~= '' and scope == scope_of(spec)) then return end
  local former = { number .. ' ' .. scope }
  for line in string.gmatch(known or '', '[^\n]+') do
    if #former < 8 then former[#former + 1] = line end
  end
  set(key, 'former', table.concat(former, '\n'))
end
