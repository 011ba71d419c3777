-- Gives a group back without a word of what came of it: it is looked at again at once. Somebody else's lease is left alone.
-- KEYS: group. ARGV: token, id.
if redis.call('HGET', KEYS[1], 'lease') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'lease', 'lease_owner', 'lease_until')
  local sched = redis.call('HGET', KEYS[1], 'sched')
  if sched then place(ARGV[2], sched, now) end
end
return 1
