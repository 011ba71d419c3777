-- Whether an order may be placed now: all its buckets are tried at one moment, and either all are spent or held, or none is
-- touched and it is said when its turn comes.
-- KEYS: limits. ARGV: time, order, class (o: somebody asked, r: a renewal, n: new), whether it was promised this turn (1 or 0), how
-- long until it is given up while unanswered, and while open, then for each bucket: name, interval, burst, mode (s: spent now;
-- h: held, spent later; l: looked at), cost, tokens that are left for others, a draw from 0 to 1.
-- Answers {1, when it is given up while unanswered, number of the spending in each bucket, ...} or {0, the turn, bucket that it
-- waits for, when that allows it}; and in both cases, last, the time.
local id, class, promised = ARGV[2], ARGV[3], ARGV[4] == '1'
local asking_ends, open_ends = text(now + ARGV[5]), text(now + ARGV[6])
local since = value(base .. ':limits-since')
if not since then
  since = text(now)
  write(base .. ':limits-since', since)
end
local SHARES = {o = 0.2, r = 0.4, n = 0.4}
-- A little more often than the bucket fills: some of those that were promised a turn don't take it.
local OVERBOOKED = 0.99
-- An order of a bucket that somebody else may be spending from waits for the one before it to be answered, so long at a time.
local ONE_BY_ONE = 100000

local turn, waits_for, allowed
for i = 7, #ARGV, 7 do
  local bucket, interval, burst, mode = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3]
  local cost, left, draw = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6])
  local key = bucket_key(bucket)
  local tat = math.max(now, number(key, 't'))
  local at, slot
  if mode == 'l' then
    at = tat + interval * cost - interval * burst
    slot = at
  else
    local oldest, unanswered = oldest_asking(bucket, key, interval)
    tat = math.max(tat, number(key, 't'))
    if mode == 's' and oldest then
      tat = math.max(tat, now + interval * (number(key, 'n') - oldest + 1))
    elseif mode == 'h' then
      for _, ended in ipairs(read('ZRANGEBYSCORE', open_key(bucket), '-inf', '(' .. text(now)) or {}) do
        take(open_key(bucket), ended)
      end
      local open = card(open_key(bucket))
      if score(open_key(bucket), id) then open = open - 1 end
      tat = tat + interval * open
    end
    -- Within what is guaranteed to its class it may take the last one; else it leaves some to the others.
    local share = number(key, 's:' .. class) + interval * cost / SHARES[class] - interval * burst * SHARES[class]
    if share <= now or class == 'o' then left = 0 end
    at = tat + interval * (cost + left) - interval * burst
    slot = at
    if at > now then
      if class == 'o' then
        slot = at + math.min(interval, 60000000) * draw
      elseif promised then
        -- Somebody took its turn. Those to whom that happens come one after the other, each once more, and not all of them again and
        -- again.
        slot = math.max(at, number(key, 'q:p') + interval)
      else
        slot = math.max(at, number(key, 'q:' .. class) + interval * OVERBOOKED)
      end
    elseif unanswered and now < math.max(number(key, 'c'), tonumber(since) + interval * burst) then
      at = now + ONE_BY_ONE
      slot = at
    end
  end
  if at > now and (not turn or slot > turn) then turn, waits_for, allowed = slot, i, at end
end
if turn then
  local bucket, interval, burst = ARGV[waits_for], tonumber(ARGV[waits_for + 1]), tonumber(ARGV[waits_for + 2])
  if class ~= 'o' and allowed - now > ONE_BY_ONE then
    set(bucket_key(bucket), 'q:' .. (promised and 'p' or class), text(turn))
    keep(bucket, bucket_key(bucket), interval, burst)
  end
  return commit() or {'0', text(turn), bucket, text(allowed), text(now)}
end
local answer = {'1', asking_ends}
for i = 7, #ARGV, 7 do
  local bucket, interval, burst, mode, cost = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3], tonumber(ARGV[i + 4])
  local key = bucket_key(bucket)
  local spent = number(key, 'n') + cost
  if mode ~= 'l' then
    add(asking_key(bucket), id .. '@' .. asking_ends, text(spent - cost + 1))
    expire_at(asking_key(bucket), text(math.ceil(tonumber(asking_ends) / 1000) + 1000))
    local share = 's:' .. class
    set(key, share, text(math.max(now, number(key, share)) + interval * cost / SHARES[class]))
  end
  if mode == 's' then
    set(key, 't', text(math.max(now, number(key, 't')) + interval * cost))
    set(key, 'n', text(spent))
  elseif mode == 'h' then
    add(open_key(bucket), id, open_ends)
    expire_at(open_key(bucket), text(math.ceil(tonumber(open_ends) / 1000) + 1000))
  end
  if mode ~= 'l' then keep(bucket, key, interval, burst) end
  answer[#answer + 1] = text(spent - cost + 1)
end
answer[#answer + 1] = text(now)
return commit() or answer
