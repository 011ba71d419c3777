-- Takes what is due, each group under a lease of its own. Costs what is taken and what has become due, not what exists.
-- KEYS: due, the ready sets in the order of the classes, then the groups that may be taken: called without, it answers which they are. ARGV:
-- owner, length of the leases (ms), random part, how many may be moved to the ready sets, how many are taken at most in all, then for each
-- class in its order: its letter and how many are taken at most.
-- Answers {ms until more is due or '', letters of the classes of which more is ready, number of groups whose record is damaged, those
-- groups, id, token, class, ...}.
local LOOK_AGAIN_AT_DAMAGE = 600000
local is_told = #KEYS > 1 + #CLASSES
-- What became due since the groups were named waits for the next call.
local function may_touch(id) return not is_told or declared[group_key(id)] end

-- Whether there is such a group, and nothing (nil) where its record is of another kind.
local function is_there(id)
  local key = group_key(id)
  touch(key)
  local fields = redis.pcall('HMGET', key, 'sched', 'spec', 'retired')
  if fields.err then return nil end
  return (fields[1] or fields[2] or fields[3]) and true or false
end

local damaged = {}
local function put_aside(id)
  damaged[#damaged + 1] = id
  make_due(id, now + LOOK_AGAIN_AT_DAMAGE)
end

local moved = read('ZRANGEBYSCORE', due, '-inf', text(now), 'LIMIT', 0, ARGV[4])
for _, id in ipairs(moved) do
  if may_touch(id) then
    local there = is_there(id)
    if there == nil then
      put_aside(id)
    elseif not there then
      take(due, id)
    elseif is_held(id) then
      make_due(id, is_held(id))
    else
      make_ready(id, field(group_key(id), 'sched'))
    end
  end
end
local taken = {}
local room, left = tonumber(ARGV[5]), ''
for i = 6, #ARGV, 2 do
  local class = ARGV[i]
  local most = math.min(tonumber(ARGV[i + 1]), room)
  if most > 0 then
    for _, found in ipairs(lowest(ready_key(class), most)) do
      local id = found[1]
      if may_touch(id) then
        local there = is_there(id)
        if there == nil then
          put_aside(id)
        elseif not there then
          unready(id)
        elseif is_held(id) then
          make_due(id, is_held(id))
        else
          if not parts_of(field(group_key(id), 'sched')) then set_sched(id, legible(nil)) end
          taken[#taken + 1] = id
          taken[#taken + 1] = lease(id, ARGV[1], ARGV[2], ARGV[3])
          taken[#taken + 1] = class
          room = room - 1
        end
      end
    end
  end
  if card(ready_key(class)) > 0 then left = left .. class end
end
local next = lowest(due, 1)[1]
local answer = {next and text(math.max(0, math.ceil(next[2] - now))) or '', left, text(#damaged)}
for _, id in ipairs(damaged) do answer[#answer + 1] = id end
for _, word in ipairs(taken) do answer[#answer + 1] = word end
return commit() or answer
