-- What became of an order. KEYS: limits. ARGV: time, order, when its asking was to be given up, then for each bucket: name, interval,
-- burst, what happened, and a number:
--   a  it was answered, and spent as this number     u  its order was not made: given back
--   x  it asked once more without an answer          h  it holds nothing any more
--   i  it was issued: spent, if it held one          j  it was issued: spent
--   f  this many more are spent                      r  full again
--   l  the CA has refused it, and allows the next one after this long
local id = ARGV[2]
local asking = id .. '@' .. ARGV[3]
for i = 4, #ARGV, 5 do
  local bucket, interval, burst, what = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3]
  local count = tonumber(ARGV[i + 4])
  local key = bucket_key(bucket)
  local is_there = field(key, 't') or field(key, 'n') or read('EXISTS', key) == 1
  local function spend(count)
    -- Never further than empty: what the CA can't take from a bucket any more it does not take either.
    local tat = math.min(math.max(now, number(key, 't')) + interval * count, now + interval * burst)
    set(key, 't', text(math.max(tat, number(key, 't'))))
    set(key, 'n', text(number(key, 'n') + count))
    is_there = true
  end
  local function ends(all, member)
    local was_there = score(all, member)
    take(all, member)
    return was_there
  end
  if what == 'a' then
    if ends(asking_key(bucket), asking) and count > 0 then
      answered(bucket, key, interval, count)
      is_there = true
    end
  elseif what == 'u' then
    ends(asking_key(bucket), asking)
    local tat = number(key, 't')
    if tat > now then set(key, 't', text(math.max(tat - interval, now))) end
  elseif what == 'x' or what == 'f' then
    spend(count)
  elseif what == 'h' then
    ends(asking_key(bucket), asking)
    ends(open_key(bucket), id)
  elseif what == 'i' or what == 'j' then
    ends(asking_key(bucket), asking)
    local held = ends(open_key(bucket), id)
    if held or what == 'j' then spend(1) end
  elseif what == 'r' then
    for _, name in ipairs(read('HKEYS', key) or {}) do unset(key, name) end
    is_there = false
  elseif what == 'l' then
    ends(asking_key(bucket), asking)
    local tat = now + count + interval * (burst - 1)
    if tat > number(key, 't') then set(key, 't', text(tat)) end
    set(key, 'c', text(now + interval * burst))
    is_there = true
  end
  if is_there then keep(bucket, key, interval, burst) end
end
return commit() or 1
