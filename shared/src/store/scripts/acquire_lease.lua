-- The right to work on a group, for a time. Creates the group where it is new.
-- KEYS: group, index of sites. ARGV: owner, length (ms), random part of this attempt, token of a holder known to be dead or '', spec of a
-- new group, its id, its place in the schedule.
-- Answers {1, token} or {0, owner, token, remaining ms}. Server time: the clocks of the nodes don't matter.
local held = redis.call('HMGET', KEYS[1], 'lease', 'lease_owner', 'lease_until')
if held[2] and held[1]:sub(-#ARGV[3] - 1) == '.' .. ARGV[3] then
  redis.call('HSET', KEYS[1], 'lease', held[1]) -- so that a confirmation counts this write
  return {1, held[1]} -- the answer to this very attempt was lost
end
if held[2] and tonumber(held[3]) > now and held[1] ~= ARGV[4] then
  return {0, held[2], held[1], tonumber(held[3]) - now}
end
-- A counter alone can be rolled back by a failover; the random part makes the token one of its kind.
local token = redis.call('HINCRBY', KEYS[1], 'lease_count', 1) .. '.' .. ARGV[3]
redis.call('HSET', KEYS[1], 'lease', token, 'lease_owner', ARGV[1], 'lease_until', now + ARGV[2])
if redis.call('HEXISTS', KEYS[1], 'spec') == 0 then
  wanted_changes(ARGV[6], ARGV[5])
  redis.call('HSET', KEYS[1], 'spec', ARGV[5])
  redis.call('ZREM', base .. 'gone', ARGV[6])
  redis.call('ZADD', KEYS[2], 0, ARGV[6])
  redis.call('HDEL', KEYS[1], 'retired')
  set_sched(ARGV[6], ARGV[7])
end
redis.call('HSETNX', KEYS[1], 'sched', ARGV[7])
work_until(ARGV[6], now + ARGV[2])
return {1, token}
