-- Gives a group back without a word of what came of it: it is looked at again after a wait. Somebody else's lease is left alone.
-- KEYS: group, due, ready sets. ARGV: token, id, wait (ms).
local key = KEYS[1]
if field(key, 'lease') ~= ARGV[1] then return 1 end
give_up_lease(key)
local sched = field(key, 'sched')
if sched or field(key, 'spec') or field(key, 'retired') then place(ARGV[2], legible(sched), ARGV[3]) end
return commit() or 1
