-- Replaces an order that nobody works on, as the holder of a lease would: whoever slept through the end of theirs is fenced off.
-- KEYS: site, order. ARGV: what the order was, what it becomes. Answers whether it was replaced.
local held = redis.call('HMGET', KEYS[1], 'lease', 'lease_until')
if held[1] then
  local now = redis.call('TIME')
  if tonumber(held[2]) > now[1] * 1000 + math.floor(now[2] / 1000) then return 0 end
end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'lease', 'lease_owner', 'lease_until')
redis.call('SET', KEYS[2], ARGV[2])
return 1
