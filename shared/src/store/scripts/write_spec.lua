-- The wanted state of a group, or a slot that is marked as revoked. KEYS: group. ARGV: token, field, value.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local id = string.match(KEYS[1], '([^:]+)$')
if ARGV[2] == 'spec' then
  wanted_changes(id, ARGV[3])
elseif redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  changed(id)
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
