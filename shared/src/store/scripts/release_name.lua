-- A name no longer leads to a site, and is no longer kept for it. KEYS: name. ARGV: site, a group of it or '' for all.
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
local serving, wanting = string.match(value, '^([^?]*)%??(.*)$')
if ARGV[2] ~= '' then
  if serving == ARGV[2] then serving = '' end
elseif string.sub(serving, 1, 20) == ARGV[1] then
  serving = ''
end
if wanting == ARGV[1] then wanting = '' end
if serving == '' and wanting == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], wanting == '' and serving or serving .. '?' .. wanting)
end
return 1
