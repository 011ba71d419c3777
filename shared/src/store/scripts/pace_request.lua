-- When a request may be sent that the CA counts by endpoint and address: its place in the queue is taken, and the wait answered.
-- KEYS: limits. ARGV: time, bucket, interval, burst.
local bucket, interval, burst = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = base .. ':requests:' .. bucket
local tat = math.max(now, tonumber(redis.call('GET', key) or '0'))
tat = tat + interval
redis.call('SET', key, text(tat), 'PX', text(math.ceil((tat - now) / 1000) + 1000))
return text(math.max(0, tat - interval * burst - now))
