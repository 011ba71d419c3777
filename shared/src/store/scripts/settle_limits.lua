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
  local value = tonumber(ARGV[i + 4])
  local key = bucket_key(bucket)
  local function spend(count)
    -- Never further than empty: what the CA can't take from a bucket any more it does not take either.
    local tat = math.min(math.max(now, number(key, 't')) + interval * count, now + interval * burst)
    redis.call('HSET', key, 't', text(math.max(tat, number(key, 't'))))
    redis.call('HINCRBY', key, 'n', count)
  end
  if what == 'a' then
    if redis.call('ZREM', asking_key(bucket), asking) == 1 and value > 0 then answered(bucket, key, interval, value) end
  elseif what == 'u' then
    redis.call('ZREM', asking_key(bucket), asking)
    local tat = number(key, 't')
    if tat > now then redis.call('HSET', key, 't', text(math.max(tat - interval, now))) end
  elseif what == 'x' or what == 'f' then
    spend(value)
  elseif what == 'h' then
    redis.call('ZREM', asking_key(bucket), asking)
    redis.call('ZREM', open_key(bucket), id)
  elseif what == 'i' or what == 'j' then
    redis.call('ZREM', asking_key(bucket), asking)
    local held = redis.call('ZREM', open_key(bucket), id)
    if held == 1 or what == 'j' then spend(1) end
  elseif what == 'r' then
    redis.call('DEL', key)
  elseif what == 'l' then
    redis.call('ZREM', asking_key(bucket), asking)
    local tat = now + value + interval * (burst - 1)
    if tat > number(key, 't') then redis.call('HSET', key, 't', text(tat)) end
    redis.call('HSET', key, 'c', text(now + interval * burst))
  end
  if redis.call('EXISTS', key) == 1 then keep(bucket, key, interval, burst) end
end
return 1
