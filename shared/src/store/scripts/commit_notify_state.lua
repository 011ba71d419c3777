-- KEYS: leader, states, what the receiver was told. ARGV: token, receiver, state, then pairs of site and record; an empty
-- record forgets the site.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED another node notifies') end
local told, forgotten = {}, {}
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    forgotten[#forgotten + 1] = ARGV[i]
  else
    told[#told + 1] = ARGV[i]
    told[#told + 1] = ARGV[i + 1]
  end
end
-- What is not of its kind is found before anything is written.
redis.call('HLEN', KEYS[3])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
for i = 1, #told, 2000 do redis.call('HSET', KEYS[3], unpack(told, i, math.min(i + 1999, #told))) end
for i = 1, #forgotten, 2000 do redis.call('HDEL', KEYS[3], unpack(forgotten, i, math.min(i + 1999, #forgotten))) end
return 1
