-- When a request may be sent that the CA counts by endpoint and address: its place in the queue is taken, and the wait answered.
-- KEYS: limits, the queue. ARGV: time, bucket, interval, burst.
local bucket, interval, burst = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = base .. ':requests:' .. bucket
local tat = math.max(now, tonumber(value(key) or '0') or 0) + interval
write(key, text(tat))
expire_at(key, text(math.ceil(tat / 1000) + 1000))
return commit() or text(math.max(0, tat - interval * burst - now))
