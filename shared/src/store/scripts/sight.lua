-- Names that were seen and that no site has: those that are new wait for an issuer. What was denied a while ago is not asked
-- about again, and nobody fills the memory.
-- KEYS: waiting, by, denied, denials, counts. ARGV: frontend, most of one frontend, most of all, names. Answers a word for each.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, name in ipairs(read('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)) do
  take(KEYS[3], name)
  unset(KEYS[4], name)
end
local all, of_frontend = card(KEYS[1]), tonumber(field(KEYS[5], ARGV[1]) or '0') or 0
local answers = {}
for i = 4, #ARGV do
  local name = ARGV[i]
  local denied_until = tonumber(string.match(field(KEYS[4], name) or '', '^(%d+) ') or '0')
  if score(KEYS[1], name) then
    answers[#answers + 1] = 'waiting'
  elseif denied_until > now then
    answers[#answers + 1] = 'denied'
  elseif all >= tonumber(ARGV[3]) or of_frontend >= tonumber(ARGV[2]) then
    answers[#answers + 1] = 'full'
  else
    add(KEYS[1], name, string.format('%.0f', now))
    set(KEYS[2], name, ARGV[1])
    all, of_frontend = all + 1, of_frontend + 1
    set(KEYS[5], ARGV[1], string.format('%.0f', of_frontend))
    answers[#answers + 1] = 'accepted'
  end
end
return commit() or answers
