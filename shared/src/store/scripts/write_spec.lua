-- The wanted state of a group, or a slot that is marked as revoked. KEYS: group. ARGV: token, field, value.
local key = KEYS[1]
if field(key, 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
local id = string.match(key, '([^:]+)$')
if ARGV[2] == 'spec' then
  wanted_changes(id, ARGV[3])
elseif field(key, ARGV[2]) ~= ARGV[3] then
  changed(id)
end
set(key, ARGV[2], ARGV[3])
return commit() or 1
