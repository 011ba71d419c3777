-- Before every script of the limits' twin, behind `all_or_nothing.lua`. A bucket is a hash: `t` its TAT (see domain/limit.rs), `n` how many were spent, `s:CLASS`
-- the TAT of what is guaranteed to a class, `q:CLASS` the last turn that was promised (`q:p`: once more, to one whose turn was taken), `c` until when somebody else may be spending
-- from it. Beside it `asking` holds orders that the CA has not answered yet, by the number of their spending, and `open` those that
-- it has and that may still spend, by when they are given up. All times are microseconds. KEYS[1] is the CA's `limits` set: buckets
-- that are not full, by when they are; then `limits-since`, and of each bucket `limit`, `asking` and `open`. ARGV[1] is the time, '' for the server's own.
local base = string.match(KEYS[1], '^(.*):limits$')
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function text(number) return string.format('%.0f', number) end
local function bucket_key(bucket) return base .. ':limit:' .. bucket end
local function asking_key(bucket) return base .. ':asking:' .. bucket end
local function open_key(bucket) return base .. ':open:' .. bucket end
local function number(key, name) return tonumber(field(key, name) or '0') or 0 end

-- The oldest order that the CA has not answered: the number of its spending. One that was given up was spent at the latest then.
local function oldest_asking(bucket, key, interval)
  while true do
    local first = lowest(asking_key(bucket), 1)[1]
    if not first then return nil end
    local ends = tonumber(string.match(first[1], '@(%d+)$') or '0')
    if ends > now then return first[2], card(asking_key(bucket)) end
    take(asking_key(bucket), first[1])
    local late = ends + interval * math.max(1, number(key, 'n') - first[2] + 1)
    if late > number(key, 't') then set(key, 't', text(late)) end
  end
end

-- A bucket is forgotten once it is full, and nobody waits for it: but not while an order of it may be answered.
local function keep(bucket, key, interval, burst)
  local tat = number(key, 't')
  local ends = math.max(tat, number(key, 'c'), number(key, 'q:n'), number(key, 'q:r'), number(key, 'q:p'), now) + 3600000000
  expire_at(key, text(math.ceil(ends / 1000)))
  if tat - now > interval * burst / 2 then add(KEYS[1], bucket, text(tat)) end
end

-- Whatever was answered late: the CA has spent number `spent` by now, and those after it later still.
local function answered(bucket, key, interval, spent)
  local late = now + interval * math.max(1, number(key, 'n') - spent + 1)
  if late > number(key, 't') then set(key, 't', text(late)) end
end
