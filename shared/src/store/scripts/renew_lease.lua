-- KEYS: group, due. ARGV: token, length (ms), id.
if field(KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
set(KEYS[1], 'lease_until', text(now + ARGV[2]))
-- Where it is not, its lease had ended already: whoever comes for it finds that it is held again.
if score(due, ARGV[3]) then add(due, ARGV[3], text(now + ARGV[2])) end
return commit() or 1
