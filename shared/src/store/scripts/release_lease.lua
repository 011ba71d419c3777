-- Gives the site back. Somebody else's lease is left alone. KEYS: site. ARGV: token.
if redis.call('HGET', KEYS[1], 'lease') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'lease', 'lease_owner', 'lease_until')
end
return 1
