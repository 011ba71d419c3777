-- The wanted state of a site: its groups as they are from now on, those that are no longer wanted retired. All at once.
-- KEYS: due, ready sets, then what it touches of the site. ARGV: JSON {site, revision ('' where it must be new), change (of its kind alone: what has it as
-- its last one is written already, and its answer was lost), numbers of its groups or
-- '', groups: [{id, spec, place, wait (ms; absent: nothing to do for it), force (absent: its
-- certificates stay good), failure or cut (what failed of its names before)}], retired: [{id, place, wait, delete_at (s)}], events: [...]}.
-- Answers the new revision.
local wish = cjson.decode(ARGV[1])
local root = group_key(wish.site)
-- `NUMBER.CHANGE`
local revision = field(root, 'wrev') or '0'
if string.match(revision, '%.(.+)$') == wish.change then
  set(root, 'wrev', revision) -- so that a confirmation counts this write
  return commit() or revision
end
if wish.revision == '' then
  if field(root, 'spec') or field(root, 'groups') then return redis.error_reply('CONFLICT the site is there already') end
elseif wish.revision ~= revision then
  return redis.error_reply('CONFLICT the site was changed')
end
local function count_wish(key) set(key, 'rev', text(number_of(key, 'rev') + 1)) end
for _, group in ipairs(wish.retired) do
  local key = group_key(group.id)
  local spec = field(key, 'spec')
  if spec then
    wanted_changes(group.id, '')
    set(key, 'retired', spec)
    for _, name in ipairs({'spec', 'failure', 'cut', 'parked', 'retry', 'force'}) do unset(key, name) end
    count_wish(key)
    take(base .. 'sites', group.id)
    add(base .. 'retired', group.id, group.delete_at)
    place_unless_held(group.id, group.place, group.wait)
    index(group.id)
  end
end
for _, group in ipairs(wish.groups) do
  local key = group_key(group.id)
  wanted_changes(group.id, group.spec)
  set(key, 'spec', group.spec)
  take(base .. 'gone', group.id)
  take(base .. 'retired', group.id)
  unset(key, 'retired')
  add(base .. 'sites', group.id, '0')
  if group.place then
    count_wish(key)
    local failure, cut = field(key, 'failure'), field(key, 'cut')
    -- What was changed may well be what had failed.
    if failure then set(key, 'failure', (string.gsub(failure, ',"remembered":true}$', '}'))) end
    if group.failure and not failure then set(key, 'failure', group.failure) end
    if group.cut then
      local is_read, known = pcall(cjson.decode, cut or '{}')
      if not is_read or type(known) ~= 'table' then known = {} end
      for name, failure in pairs(group.cut) do known[name] = known[name] or failure end
      set(key, 'cut', cjson.encode(known))
    end
    if group.force then set(key, 'force', group.force) end
    wish_for(group.id, group.place, group.wait)
    if group.failure or group.cut or failure then index(group.id) end
  end
end
if wish.numbers ~= '' then set(root, 'groups', wish.numbers) else unset(root, 'groups') end
for _, event in ipairs(wish.events) do tell(event) end
revision = text((tonumber(string.match(revision, '^%d+')) or 0) + 1) .. '.' .. wish.change
set(root, 'wrev', revision)
return commit() or revision
