-- The wanted state of a site: its groups as they are from now on, those that are no longer wanted retired. All at once.
-- KEYS: due. ARGV: JSON {site, revision ('' where it must be new), numbers of its groups or '', groups: [{id, spec, place, moment
-- (absent: nothing to do for it), force (absent: its certificates stay good), failure or cut (what failed
-- of its names before)}], retired: [{id, place, moment}], events: [...]}.
-- Answers the new revision.
local wish = cjson.decode(ARGV[1])
local root = group_key(wish.site)
local known = redis.call('HMGET', root, 'wrev', 'spec', 'groups')
local revision = known[1] or '0'
if wish.revision == '' then
  if known[2] or known[3] then return redis.error_reply('CONFLICT the site is there already') end
elseif wish.revision ~= revision then
  return redis.error_reply('CONFLICT the site was changed')
end
for _, group in ipairs(wish.retired) do
  local key = group_key(group.id)
  local spec = redis.call('HGET', key, 'spec')
  if spec then
    wanted_changes(group.id, '')
    redis.call('HSET', key, 'retired', spec)
    redis.call('HDEL', key, 'spec', 'failure', 'cut', 'parked', 'retry', 'force')
    redis.call('HINCRBY', key, 'rev', 1)
    redis.call('ZREM', base .. 'sites', group.id)
    place_unless_held(group.id, group.place, group.moment)
    index(group.id)
  end
end
for _, group in ipairs(wish.groups) do
  local key = group_key(group.id)
  wanted_changes(group.id, group.spec)
  redis.call('HSET', key, 'spec', group.spec)
  redis.call('ZREM', base .. 'gone', group.id)
  redis.call('HDEL', key, 'retired')
  redis.call('ZADD', base .. 'sites', 0, group.id)
  if group.place then
    redis.call('HINCRBY', key, 'rev', 1)
    local known = redis.call('HMGET', key, 'failure', 'cut')
    -- What was changed may well be what had failed.
    if known[1] then redis.call('HSET', key, 'failure', (string.gsub(known[1], ',"remembered":true}$', '}'))) end
    if group.failure and not known[1] then redis.call('HSET', key, 'failure', group.failure) end
    if group.cut then
      local cut = known[2] and cjson.decode(known[2]) or {}
      for name, failure in pairs(group.cut) do cut[name] = cut[name] or failure end
      redis.call('HSET', key, 'cut', cjson.encode(cut))
    end
    if group.failure or group.cut then index(group.id) end
    if group.force then redis.call('HSET', key, 'force', group.force) end
    wish_for(group.id, group.place, group.moment)
  end
end
if wish.numbers ~= '' then redis.call('HSET', root, 'groups', wish.numbers) else redis.call('HDEL', root, 'groups') end
for _, event in ipairs(wish.events) do tell(event) end
return redis.call('HINCRBY', root, 'wrev', 1)
