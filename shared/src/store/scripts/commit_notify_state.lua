-- KEYS: leader, states, what the receiver was told. ARGV: token, receiver, state, then pairs of site and record; an empty
-- record forgets the site.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED another node notifies') end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[3], ARGV[i])
  else
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
  end
end
return 1
