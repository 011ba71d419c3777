-- The right to work on a group, for a time. Creates the group where it is new.
-- KEYS: group, index of sites, due, ready sets. ARGV: owner, length (ms), random part of this attempt, token of a holder known to be dead or
-- '', spec of a new group, its id, its place in the schedule.
-- Answers {1, token} or {0, owner, token, remaining ms}. Server time: the clocks of the nodes don't matter.
local key, id = KEYS[1], ARGV[6]
local token, owner = field(key, 'lease') or '', field(key, 'lease_owner')
if owner and token:sub(-#ARGV[3] - 1) == '.' .. ARGV[3] then
  set(key, 'lease', token) -- so that a confirmation counts this write
  return commit() or {1, token} -- the answer to this very attempt was lost
end
local ends = is_held(id)
if owner and ends and token ~= ARGV[4] then return {0, owner, token, ends - now} end
if not field(key, 'spec') then
  wanted_changes(id, ARGV[5])
  set(key, 'spec', ARGV[5])
  take(base .. 'gone', id)
  take(base .. 'retired', id)
  add(KEYS[2], id, '0')
  unset(key, 'retired')
  -- What somebody wished for before it was removed is no wish for this one.
  if not field(key, 'groups') then
    unset(key, 'wrev')
    unset(key, 'rev')
  end
  set_sched(id, ARGV[7])
end
if not parts_of(field(key, 'sched')) then set_sched(id, ARGV[7]) end
token = lease(id, ARGV[1], ARGV[2], ARGV[3])
return commit() or {1, token}
