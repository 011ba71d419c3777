-- Gives groups another number, so that frontends hear of them again. What was never told of is not told of now. KEYS: feed, the groups.
-- ARGV: ids.
for _, id in ipairs(ARGV) do
  local key = group_key(id)
  touch(key)
  local number = redis.pcall('HGET', key, 'seq')
  if number and not (type(number) == 'table' and number.err) then changed(id) end
end
return commit() or #ARGV
