-- Leases whose holder is known to have ended: those groups are looked at again at once.
-- KEYS: due, ready sets, groups. ARGV: the tokens, id and token of each. Answers how many were taken over.
local count = 0
for i = 1, #ARGV, 2 do
  local key = group_key(ARGV[i])
  if field(key, 'lease') == ARGV[i + 1] then
    give_up_lease(key)
    place(ARGV[i], legible(field(key, 'sched')), 0)
    count = count + 1
  end
end
return commit() or count
