-- Makes a group point to other certificates, all slots at once. The orders that brought them end later, when names lead to the
-- group: killed in between, the next run publishes again, which changes nothing.
-- KEYS: group, then the record of each certificate that is served from now on. ARGV: token, number of those certificates, number of
-- fields, field and value of each ('' deletes), events.
local key = KEYS[1]
if field(key, 'lease') ~= ARGV[1] then return redis.error_reply('FENCED another holder') end
-- After a failover to a replica that lacked it, the lease may be there and the certificate not.
for i = 2, 1 + tonumber(ARGV[2]) do
  if read('EXISTS', KEYS[i]) == 0 then return redis.error_reply('CONFLICT the certificate is not stored') end
end
local last = 3 + 2 * tonumber(ARGV[3])
local before, used = {}, {}
local is_new, lets_go = false, false
for i = 4, last, 2 do
  local name, new = ARGV[i], ARGV[i + 1]
  local kind, slot = string.match(name, '^(%a+):(%a+)$')
  local old = field(key, name)
  if (kind or name == 'staged') and (old or '') ~= new then
    is_new = true
    lets_go = lets_go or (kind == 'kept' and new == '')
  end
  if kind and old then before[#before + 1] = old end
  if new == '' then
    unset(key, name)
  else
    if kind then used[new] = true end
    set(key, name, new)
  end
  if kind == 'cert' and old ~= new then unset(key, 'revoked:' .. slot) end
end
-- What nothing refers to any more goes with the same stroke.
local id = string.match(key, '([^:]+)$')
for _, certificate in ipairs(before) do
  if not used[certificate] then drop(base .. 'cert:' .. id .. ':' .. certificate) end
end
if is_new then
  local number = changed(id)
  if lets_go then set(key, 'unkept', number) end
end
set(key, 'lease', ARGV[1]) -- so that a confirmation counts a repeated call too
for i = last + 1, #ARGV do tell(ARGV[i]) end
return commit() or 1
