-- Makes a group point to other certificates, all slots at once. The orders that brought them end later, when names lead to the
-- group: killed in between, the next run publishes again, which changes nothing.
-- KEYS: group, then the record of each certificate that is served from now on. ARGV: token, number of fields, field and value of
-- each ('' deletes), events.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
-- After a failover to a replica that lacked it, the lease may be there and the certificate not.
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return redis.error_reply('CONFLICT the certificate is not stored') end
end
local last = 2 + 2 * tonumber(ARGV[2])
local before, used = {}, {}
local is_new, lets_go = false, false
for i = 3, last, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  local kind, slot = string.match(field, '^(%a+):(%a+)$')
  local old = redis.call('HGET', KEYS[1], field)
  if (kind or field == 'staged') and (old or '') ~= value then
    is_new = true
    lets_go = lets_go or (kind == 'kept' and value == '')
  end
  if kind and old then before[#before + 1] = old end
  if value == '' then
    redis.call('HDEL', KEYS[1], field)
  else
    if kind then used[value] = true end
    redis.call('HSET', KEYS[1], field, value)
  end
  if kind == 'cert' and old ~= value then redis.call('HDEL', KEYS[1], 'revoked:' .. slot) end
end
-- What nothing refers to any more goes with the same stroke.
local id = string.match(KEYS[1], '([^:]+)$')
for _, certificate in ipairs(before) do
  if not used[certificate] then redis.call('UNLINK', base .. 'cert:' .. id .. ':' .. certificate) end
end
if is_new then
  local number = changed(id)
  if lets_go then redis.call('HSET', KEYS[1], 'unkept', number) end
end
for i = last + 1, #ARGV do tell(ARGV[i]) end
return 1
