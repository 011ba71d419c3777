-- An operator asks for a group to be looked at now. KEYS: group, due, ready sets, indexes. ARGV: id, place, then fields and values to set.
-- Answers 0 where there is no such group.
local key = KEYS[1]
if not field(key, 'spec') then return 0 end
for i = 3, #ARGV, 2 do set(key, ARGV[i], ARGV[i + 1]) end
set(key, 'rev', text(number_of(key, 'rev') + 1))
wish_for(ARGV[1], ARGV[2], 0)
index(ARGV[1])
return commit() or 1
