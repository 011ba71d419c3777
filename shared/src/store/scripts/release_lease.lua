-- Gives the site back, and ends the orders that are done. Somebody else's lease is left alone.
-- KEYS: site, orders that are done. ARGV: token.
if redis.call('HGET', KEYS[1], 'lease') == ARGV[1] then
  for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
  redis.call('HDEL', KEYS[1], 'lease', 'lease_owner', 'lease_until')
end
return 1
