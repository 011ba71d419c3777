-- Takes names that wait, for a while: should whoever takes them die, they wait again.
-- KEYS: waiting, by. ARGV: how many, for how long (ms). Answers name and frontend of each.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for _, name in ipairs(read('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])) do
  add(KEYS[1], name, string.format('%.0f', now + ARGV[2]))
  found[#found + 1] = name
  found[#found + 1] = field(KEYS[2], name) or ''
end
return commit() or found
