-- Makes stored certificates the ones that are served, all slots at once. Their orders end later, when names lead to the
-- site: killed in between, the next run publishes again, which changes nothing.
-- KEYS: group, then the record of each certificate. ARGV: token, then slot and certificate for each.
-- Answers the certificates that nothing refers to any more.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
-- After a failover to a replica that lacked it, the lease may be there and the certificate not.
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return redis.error_reply('CONFLICT the certificate is not stored') end
end
local unused = {}
for i = 2, #ARGV, 2 do
  local current, previous = 'cert:' .. ARGV[i], 'prev:' .. ARGV[i]
  local old = redis.call('HGET', KEYS[1], current)
  if old ~= ARGV[i + 1] then
    local older = redis.call('HGET', KEYS[1], previous)
    if older and older ~= ARGV[i + 1] then unused[#unused + 1] = older end
    if old then redis.call('HSET', KEYS[1], previous, old) end
  end
  redis.call('HSET', KEYS[1], current, ARGV[i + 1])
  redis.call('HDEL', KEYS[1], 'revoked:' .. ARGV[i])
end
return unused
