-- Takes away what is no change of a chunk of the feed, and the chunk where nothing else is left. KEYS: feed, chunk. ARGV: its number,
-- what is to go.
if type(redis.pcall('ZCARD', KEYS[2])) == 'number' then
  for i = 2, #ARGV do redis.call('ZREM', KEYS[2], ARGV[i]) end
else
  redis.call('DEL', KEYS[2])
end
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 1
