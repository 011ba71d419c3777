-- What must always be true: each group that there is stands in `due` or in one `ready` set, and nothing else does; each group that is
-- wanted is in the index of sites, and each that is no longer in `retired`, by when it is deleted (s); who waits
-- for a moment is in `waiting`. KEYS: due, ready sets, index of sites, `retired`, the groups, `waiting`. ARGV: ids to look at.
-- Answers {id, what was wrong, ...}: `lost` (in no queue), `twice` (in several), `empty` (there is no such group), `unreadable` (its place
-- can't be read), `unlisted` (not in the index), `uncounted` (`waiting` says otherwise than its record), `damaged` (its record is not
-- one; nothing is done).
local answer = {}
local function say(id, what)
  answer[#answer + 1] = id
  answer[#answer + 1] = what
end
for _, id in ipairs(ARGV) do
  local key = group_key(id)
  touch(key)
  local fields = redis.pcall('HMGET', key, 'sched', 'spec', 'retired', 'failure')
  local queues = score(due, id) and 1 or 0
  for _, class in ipairs(CLASSES) do
    if score(ready_key(class), id) then queues = queues + 1 end
  end
  if fields.err then
    say(id, 'damaged')
    if queues == 0 then add(due, id, text(now)) end
  elseif not (fields[1] or fields[2] or fields[3]) then
    if queues > 0 or score(KEYS[8], id) or score(KEYS[9], id) or score(base .. 'waiting', id) then
      say(id, 'empty')
      unready(id)
      take(due, id)
      take(KEYS[8], id)
      take(KEYS[9], id)
      for _, name in ipairs({'failing', 'parked', 'waiting'}) do take(base .. name, id) end
    end
  else
    local readable = parts_of(fields[1] or nil)
    local wrong = (not readable and 'unreadable') or (queues == 0 and 'lost') or (queues > 1 and 'twice')
    if wrong then
      say(id, wrong)
      place_unless_held(id, legible(fields[1] or nil), 0)
    end
    local waits = fields[2] and is_wait(fields[4]) or false
    if waits ~= (score(base .. 'waiting', id) and true or false) then
      say(id, 'uncounted')
      index_wait(id, waits)
    end
    if fields[2] then
      take(KEYS[9], id)
      if not score(KEYS[8], id) then
        say(id, 'unlisted')
        add(KEYS[8], id, '0')
      end
    elseif fields[3] and not score(KEYS[9], id) then
      -- Its place says when, where nobody has overwritten it.
      local class, deadline = parts_of(fields[1] or nil)
      if class == 'c' then add(KEYS[9], id, deadline) end
    end
  end
end
return commit() or answer
