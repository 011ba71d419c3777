-- Deletes a retired group with everything of it, after its grace time. KEYS: group, its orders and what they brought. ARGV: token, id, number
-- of those orders. Answers 0 where it is wanted again.
local key = KEYS[1]
if field(key, 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
if field(key, 'spec') then return 0 end
local id = ARGV[2]
-- The first group's record also says which groups the site has; and frontends that were away for a time are still to hear of this.
local stays = {groups = true, wrev = true, seq = true, former = true, unkept = true}
local fields, sched = read('HGETALL', key), field(key, 'sched')
local keeps = false
for i = 1, #fields, 2 do
  local kind = string.match(fields[i], '^(%a+):')
  if kind == 'cert' or kind == 'prev' or kind == 'kept' or kind == 'next' then
    drop(base .. 'cert:' .. id .. ':' .. fields[i + 1])
    keeps = keeps or kind == 'kept'
  end
  if not stays[fields[i]] then unset(key, fields[i]) end
end
for i = 2, 1 + tonumber(ARGV[3]) do drop(KEYS[i]) end
count_renewal(hour_of(sched), -1)
unready(id)
for _, name in ipairs({'due', 'sites', 'retired', 'failing', 'parked', 'waiting'}) do take(base .. name, id) end
local number = field(key, 'seq')
if keeps and number then set(key, 'unkept', number) end
if number then add(base .. 'gone', id, text(now)) end
-- For 90 days.
local ended = read('ZRANGEBYSCORE', base .. 'gone', '-inf', text(now - 7776000000), 'LIMIT', 0, 10) or {}
for _, gone in ipairs(ended) do
  if gone ~= id then
    local last = number_of(group_key(gone), 'seq')
    leave_feed(gone, last)
    for _, name in ipairs({'seq', 'former', 'unkept'}) do unset(group_key(gone), name) end
    if last > number_of(feed_state, 'floor') then set(feed_state, 'floor', text(last)) end
    take(base .. 'gone', gone)
  end
end
return commit() or 1
