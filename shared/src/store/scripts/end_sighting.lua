-- A name waits no more. Denied, it is not asked about for a time, a longer one each time up to the longest; what it was denied is
-- remembered for as long again.
-- KEYS: waiting, by, denied, denials, counts. ARGV: name, first pause (ms; 0: it is not denied), longest pause (ms), most that
-- are remembered, why.
local name = ARGV[1]
if score(KEYS[1], name) then
  take(KEYS[1], name)
  local frontend = field(KEYS[2], name)
  unset(KEYS[2], name)
  if frontend then
    local left = (tonumber(field(KEYS[5], frontend) or '0') or 0) - 1
    if left <= 0 then unset(KEYS[5], frontend) else set(KEYS[5], frontend, string.format('%.0f', left)) end
  end
end
if ARGV[2] == '0' then
  take(KEYS[3], name)
  unset(KEYS[4], name)
  return commit() or 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = tonumber(string.match(field(KEYS[4], name) or '', '^%d+ (%d+) ') or 0)
local pause = math.min(ARGV[2] * 2 ^ math.min(count, 30), tonumber(ARGV[3]))
set(KEYS[4], name, string.format('%d %d %s', now + pause, count + 1, ARGV[5]))
add(KEYS[3], name, string.format('%.0f', now + 2 * pause))
for _, oldest in ipairs(lowest(KEYS[3], math.max(0, card(KEYS[3]) - tonumber(ARGV[4])))) do
  take(KEYS[3], oldest[1])
  unset(KEYS[4], oldest[1])
end
return commit() or 1
